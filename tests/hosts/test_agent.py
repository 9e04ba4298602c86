# The agent as a service: its configuration, its sandbox, its size.
import re

import pytest

from lab import bench, cluster
from lab.bus import Bus, BusError
from lab.tools import until

UNITS = ("treatyd.service", "treaty-units.service")


@pytest.fixture
def restored(hosts):
    yield hosts[0]
    hosts[0].run("sh", "-c", "rm -rf /etc/treaty/treaty.conf /etc/treaty/treaty.conf.d")
    hosts[0].run("systemctl", "reset-failed", "treatyd.service", check=False)
    hosts[0].run("systemctl", "restart", "treatyd.service")
    cluster.wait_formed(hosts)


def since(host):
    return host.run("date", "+%Y-%m-%d %H:%M:%S.%N").stdout.strip()[:-3]


def test_unknown_keys_are_warned_of_with_their_place(restored):
    began = since(restored)
    restored.write("/etc/treaty/treaty.conf.d/50-site.conf", "[Treaty]\n# fine\nColour=red\n[Elsewhere]\nA=b\n")
    restored.run("systemctl", "restart", "treatyd.service")
    told = restored.journal("-u", "treatyd.service", f"--since={began}")
    assert re.search(r"/etc/treaty/treaty\.conf\.d/50-site\.conf:3: .*Colour", told)
    assert re.search(r"50-site\.conf:[45]: .*Elsewhere", told)
    until(lambda: cluster.agent_answers(restored), 10, "the agent")


@pytest.mark.parametrize("line, word", [
    ("ElectionSec=soon", "ElectionSec"), ("Listen=host:99999", "Listen"), ("Voters=2", "Voters"),
    ("HostName=a b", "HostName"), ("Join=not a token", "Join"), ("LogLevel=loud", "LogLevel"), ("Address=:7707", "Address"),
])
def test_bad_values_refuse_to_start_and_say_why(restored, line, word):
    began = since(restored)
    restored.write("/etc/treaty/treaty.conf", f"[Treaty]\n\n{line}\n")
    assert restored.run("systemctl", "restart", "treatyd.service", check=False).returncode != 0
    told = restored.journal(f"--since={began}")  # no "-u": journald cannot tell the unit of a process that is gone already
    assert re.search(rf"/etc/treaty/treaty\.conf:3: .*{word}", told), told
    restored.run("systemctl", "stop", "treatyd.service")


def test_units_are_sound(hosts):
    paths = [hosts[0].run("systemctl", "show", "--property=FragmentPath", "--value", u).stdout.strip() for u in UNITS]
    done = hosts[0].run("systemd-analyze", "verify", "--man=no", *paths, check=False)
    assert done.returncode == 0 and done.stderr.strip() == "", done.stderr


def test_the_agent_is_locked_in(hosts):
    done = hosts[0].run("systemd-analyze", "security", "--threshold=20", "--no-pager", "treatyd.service", check=False)
    assert done.returncode == 0, done.stdout[-300:]
    pid = hosts[0].run("systemctl", "show", "--property=MainPID", "--value", "treatyd.service").stdout.strip()
    status = hosts[0].run("cat", f"/proc/{pid}/status").stdout
    uid = hosts[0].run("id", "-u", "treaty").stdout.strip()
    assert re.search(rf"^Uid:\t{uid}\t{uid}\t{uid}\t{uid}$", status, re.M)
    assert re.search(r"^CapEff:\t0+$", status, re.M) and re.search(r"^NoNewPrivs:\t1$", status, re.M)


def test_everything_is_linked_to_what_the_host_has(hosts):
    for program in ("/usr/bin/treatyctl", "$(systemctl show --property=ExecStart --value treatyd.service | "
                    "sed 's/.*path=\\([^ ;]*\\).*/\\1/')"):
        told = hosts[0].run("sh", "-c", f"ldd {program}").stdout
        assert "not found" not in told and "libsystemd" in told


def test_systemd_hears_from_the_agent(hosts):
    shown = hosts[0].run("systemctl", "show", "treatyd.service", "--property=Type,StatusText,WatchdogUSec,NRestarts").stdout
    assert "Type=notify" in shown and re.search(r"StatusText=.+", shown) and "WatchdogUSec=0" not in shown


def test_the_bus_may_restart(hosts):
    """Its name is back, and the private socket never was away."""
    host = hosts[1]
    pid = host.run("systemctl", "show", "--property=MainPID", "--value", "treatyd.service").stdout
    with Bus(host, private=True) as private:
        host.run("systemctl", "restart", "dbus.service")
        assert private.set("/bus/restarted", "x") > 0
    until(lambda: host.run("busctl", "--no-legend", "status", "org.treaty1", check=False).returncode == 0, 15, "the name")
    with Bus(host) as bus:
        assert bus.get("/bus/restarted")
    assert host.run("systemctl", "show", "--property=MainPID", "--value", "treatyd.service").stdout == pid


def test_an_idle_agent_is_small_and_quiet(hosts):
    with Bus(hosts[0]) as bus:
        for entry in bus.list("/", 4):
            if entry.count("/") == 1 or not entry.startswith("/services"):
                try:
                    bus.call("Tree.Delete", entry, 0, {})
                except BusError:
                    pass
    for host in hosts:
        host.run("systemctl", "restart", "treatyd.service")
    cluster.wait_formed(hosts)
    agents = [bench.Agent(h) for h in hosts]
    bench.settle(agents)
    seen = []
    # A busy machine makes the same work dearer: one quiet stretch of three is enough to show how little it is.
    while len(seen) < 3 and (not seen or max(seen[-1]) >= 0.5):
        seen.append([cpu for cpu, _, _ in bench.idle(agents, 10)])
    assert max(seen[-1]) < 0.5, f"% CPU of {[a.host.name for a in agents]}: {seen}"
    for agent in agents:
        assert agent.memory_mib < 15, f"{agent.host.name}: {agent.memory_mib:.1f} MiB"


def test_a_hundred_writers_share_their_syncs(hosts):
    """At least 8 times the throughput of one: it takes one sync per batch, not per write."""
    agent, seen = bench.Agent(cluster.leader(hosts)), []
    # Somebody else's work on this machine may fall into one measurement, hardly into three.
    while len(seen) < 3 and (not seen or seen[-1] <= 8):
        alone, many = (bench.load(agent, "set", clients, 3) for clients in (1, 100))
        assert many["errors"] == 0, many
        seen.append(many["per_second"] / alone["per_second"])
    assert seen[-1] > 8, f"{seen} times the throughput of one"
