# The lab keeps its own promises: hosts are real, cuts cut, a crash is a crash, a power cut loses what was not synced, and
# nothing is left behind. Plain Debian hosts suffice for that, so these tests say whether a red run is the lab's fault.
import os
import signal
import subprocess
import time

import pytest

from lab import net
from lab.build import CHECKOUT
from lab.fleet import Fleet
from lab.tools import LabError, run, until
from conftest import NAME

ANSWER = "import socket; s = socket.create_server(('0.0.0.0', 7000))\nwhile True: s.accept()[0].close()"


@pytest.fixture(scope="module")
def bare():
    lab = Fleet(NAME + "b")
    try:
        lab.up(3, disk="64M", bare=True)
        yield lab
    finally:
        lab.down()


def in_network(lab, host, *argv):
    return ["ip", "netns", "exec", lab.net.host_space(host), *argv]


@pytest.fixture(scope="module")
def listening(bare):
    """A server in each host's network. It runs this machine's python, the hosts have none."""
    servers = [subprocess.Popen(in_network(bare, h.name, "/usr/bin/python3", "-c", ANSWER)) for h in bare.hosts]
    for host in bare.hosts:
        until(lambda: reaches(bare, host.name, host.name), 5, "the test's server")
    yield
    for server in servers:
        server.kill()
        server.wait()


def reaches(lab, source, target):
    code = f"import socket; socket.create_connection(('{net.address(int(target[1:]))}', 7000), 0.7)"
    return subprocess.run(in_network(lab, source, "/usr/bin/python3", "-c", code), stderr=subprocess.DEVNULL).returncode == 0


def test_hosts_are_real_and_differ(bare):
    ids = {h.run("cat", "/etc/machine-id").stdout for h in bare.hosts}
    assert len(ids) == 3
    for host in bare.hosts:
        assert host.run("systemctl", "is-system-running", check=False).stdout.strip() == "running"
        assert host.run("hostname").stdout.strip() == host.name
        assert host.run("cat", "/proc/1/comm").stdout.strip() == "systemd"
        assert "org.freedesktop.systemd1" in host.run("busctl", "list", "--no-legend").stdout


def test_names_resolve(bare):
    assert bare.host("h1").run("getent", "hosts", "h3").stdout.split() == ["10.77.0.3", "h3"]


def test_nothing_leaves_the_lab(bare):
    assert bare.host("h1").run("ip", "route", "show", "default").stdout == ""
    links = bare.host("h1").run("ip", "-brief", "link").stdout.split("\n")
    assert sorted(line.split("@")[0].split()[0] for line in links if line) == ["host0", "lo"]


def test_exec_passes_streams_and_status(bare):
    done = subprocess.run([f"{CHECKOUT}/lab", f"--name={bare.name}", "exec", "h2", "sh", "-c",
                           "cat; echo told >&2; exit 7"], input=b"\0bytes\xff", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, b"\0bytes\xff", b"told\n")


@pytest.mark.parametrize("argv, status, text", [
    (["exec", "h9", "true"], 1, "no host 'h9'"),
    (["exec", "h1"], 2, "usage"),
    (["cut", "h1", "h1"], 1, "no link to itself"),
    (["resume", "h1"], 1, "not paused"),
    (["up", "0"], 1, "1 to 60 hosts"),
    (["up", "many"], 2, "invalid int"),
    (["nonsense"], 2, "invalid choice"),
    (["--name=../etc", "status"], 1, "cannot name a lab"),
])
def test_wrong_commands_are_explained(bare, argv, status, text):
    done = subprocess.run([f"{CHECKOUT}/lab", f"--name={bare.name}", *argv], capture_output=True, text=True)
    assert done.returncode == status and text in done.stderr


def test_cut_heal_and_one_way(bare, listening):
    assert reaches(bare, "h1", "h2")
    bare.cut("h1", "h2")
    assert not reaches(bare, "h1", "h2") and not reaches(bare, "h2", "h1") and reaches(bare, "h1", "h3")
    bare.heal()
    assert reaches(bare, "h1", "h2") and bare.net.cuts() == []
    bare.cut("h3")
    assert not reaches(bare, "h3", "h1") and not reaches(bare, "h2", "h3") and reaches(bare, "h1", "h2")
    bare.heal()


def test_one_way_cut_is_one_way(bare):
    # Without a handshake, so that one direction can be told from the other.
    receive = ("import socket, sys; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('0.0.0.0', 7001));"
               "s.settimeout(1.5); print('ready', flush=True); s.recv(9); print('got')")
    send = "import socket, time; s = socket.socket(type=socket.SOCK_DGRAM)\n" \
           "for n in range(5): s.sendto(b'x', ('{}', 7001)); time.sleep(0.1)"

    def passes(source, target):
        there = subprocess.Popen(in_network(bare, target, "/usr/bin/python3", "-c", receive), stdout=subprocess.PIPE,
                                 stderr=subprocess.DEVNULL, text=True)
        assert there.stdout.readline() == "ready\n"
        run(*in_network(bare, source, "/usr/bin/python3", "-c", send.format(net.address(int(target[1:])))))
        return there.communicate()[0] == "got\n"

    assert passes("h1", "h2")
    bare.cut("h1", "h2", one_way=True)
    assert not passes("h1", "h2") and passes("h2", "h1")
    bare.heal()
    assert passes("h1", "h2")


def test_pause_freezes_everything(bare):
    host = bare.host("h2")
    counting = host.popen("sh", "-c", "while true; do date +%s%N > /run/beat; sleep 0.02; done")
    try:
        until(lambda: os.path.exists(host.path("/run/beat")), 5, "the first beat")
        host.pause()
        with pytest.raises(LabError, match="paused"):
            host.run("true")
        before = open(host.path("/run/beat")).read()
        time.sleep(0.3)
        assert open(host.path("/run/beat")).read() == before
        host.resume()
        until(lambda: open(host.path("/run/beat")).read() not in ("", before), 5, "the next beat")
    finally:
        counting.kill()
        counting.wait()


def test_crash_kills_all_and_start_boots_the_same_disk(bare):
    host = bare.host("h3")
    host.run("sh", "-c", "echo kept > /root/kept; sync -f /root/kept")
    identity = host.run("cat", "/etc/machine-id").stdout
    beat = f"{host.dir}/upper/root/beat"
    inside = host.popen("sh", "-c", "while true; do date +%s%N > /root/beat; sleep 0.02; done")
    until(lambda: os.path.exists(beat), 5, "the first beat")
    bare.crash([host])
    last = open(beat).read()
    assert inside.wait(5) in (128 + signal.SIGKILL, -signal.SIGKILL) and host.state == "off"
    with pytest.raises(LabError, match="is off"):
        host.run("true")
    time.sleep(0.2)
    assert open(beat).read() == last
    bare.boot([host])
    assert host.run("cat", "/root/kept", "/etc/machine-id").stdout == "kept\n" + identity


def test_power_cut_loses_what_was_not_synced(bare):
    hosts = bare.hosts
    for host in hosts:
        host.run("sh", "-c", "cd /var/lib/treaty && echo synced > a && sync a && echo lost > b")
    bare.powercut(hosts)
    bare.boot(hosts)
    for host in hosts:
        assert host.run("cat", "/var/lib/treaty/a").stdout == "synced\n"
        assert host.run("cat", "/var/lib/treaty/b", check=False).stdout == ""


def test_small_disk_is_small(bare):
    done = bare.host("h1").run("sh", "-c", "head -c 80M /dev/zero > /var/lib/treaty/fill; s=$?; rm /var/lib/treaty/fill;"
                               " exit $s", check=False)
    assert done.returncode != 0 and "No space left" in done.stderr


def test_half_dead_lab_is_cleaned_and_others_are_left_alone(bare, spare):
    spare.up(2, bare=True)
    # nspawn gone without its host, a host's network gone, the lab's network gone: what an aborted run may leave.
    supervisor = [int(p) for p in open(f"{spare.host('h1').cgroup}/supervisor/cgroup.procs").read().split()]
    init = spare.host("h1").init
    for pid in supervisor:
        os.kill(pid, signal.SIGKILL)
    run("ip", "netns", "delete", spare.net.space)
    assert spare.host("h1").init == init
    spare.up(1, bare=True)
    assert [h.name for h in spare.hosts] == ["h1"] and spare.host("h1").init != init
    assert spare.down() and not spare.down()
    assert spare.net.mine() == [] and not os.path.exists(spare.dir) and not os.path.exists(spare.cgroup)
    assert [h.state for h in bare.hosts] == ["running"] * 3
