# Becoming a member, and who does not: wrong tokens, full trees, strangers, the removed, the cloned, noise on the port.
#
# The tests of this file share a lab of their own and tell one story in order: hosts that were each a cluster of one
# become a cluster of three; then one is removed, one forgets who it was, one is cloned. They run as they stand.
import json
import os
import re
import shutil
import subprocess
import time

import pytest

from conftest import NAME
from lab import cluster
from lab.bench import Agent
from lab.bus import Bus, BusError
from lab.fleet import Fleet
from lab.tools import until
from test_tree import INVALID_ARGS, main_pid, refused

PORT = 7707


@pytest.fixture(scope="module")
def lab():
    fleet = Fleet(NAME + "j")
    try:
        fleet.up(3, fresh=False)
        yield fleet
    finally:
        fleet.down()


@pytest.fixture
def three(lab):
    return [lab.host(f"h{n}") for n in (1, 2, 3)]


def connects(lab, source, target):
    code = f"import socket; socket.create_connection(('{target.address}', {PORT}), 2)"
    return subprocess.run(["ip", "netns", "exec", lab.net.host_space(source.name), "/usr/bin/python3", "-c", code],
                          stderr=subprocess.DEVNULL).returncode == 0


def new_token(host, **options):
    with Bus(host) as bus:
        return bus.call("Cluster.Token", 0, options)


def try_join(host, token, name, flags=0):
    with Bus(host) as bus:
        return refused(name, bus, "Cluster.Join", token, flags, timeout=60)


def test_each_host_starts_as_a_cluster_of_one(lab, three):
    for host in three:
        until(lambda: cluster.agent_answers(host), 15, f"the agent on {host.name}")
        table = cluster.members(host)
        assert [(m["name"], m["role"], bool(m["leader"])) for m in table] == [(host.name, "voter", True)]
        with Bus(host) as bus:
            assert bus.property("Cluster", "MemberCount") == 1 and bus.property("Cluster", "Quorate") is True
            assert bus.set("/alone", host.name) > 0
            bus.call("Tree.Delete", "/alone", 0, {})
        assert not connects(lab, three[0], host), "a host alone must not listen for peers"


@pytest.mark.parametrize("token", ["", "x", "not a token", "treaty1:AAAA", "A" * 100000, "é", "../../etc/shadow"])
def test_what_is_no_token(three, token):
    told = try_join(three[1], token, "InvalidToken")
    assert token == "" or token not in told.text, "a token is a secret and does not belong into messages"
    assert len(cluster.members(three[1])) == 1


def test_wrong_token_options(three):
    with Bus(three[0]) as bus:
        for options in ({"uses": ("u", 0)}, {"uses": ("u", 10001)}, {"class": ("s", "king")},
                        {"expires-usec": ("t", 31 * 86400 * 1000000)}, {"addresses": ("as", [""])}):
            refused(INVALID_ARGS, bus, "Cluster.Token", 0, options)


def test_tampered_revoked_and_expired_tokens(lab, three):
    h1, h2, _ = three
    good = new_token(h1)
    assert connects(lab, h2, h1)
    # Every character counts: a token with any one changed opens nothing.
    for at in range(len(good) // 3, len(good) - 1, max(1, len(good) // 12)):
        wrong = good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1:]
        with Bus(h2) as bus, pytest.raises(BusError) as told:
            bus.call("Cluster.Join", wrong, 0, timeout=60)
        assert told.value.name in ("InvalidToken", "Unreachable"), told.value
    with Bus(h1) as bus:
        bus.call("Cluster.RevokeToken", good)
    # A cluster keeps no record of tokens that are gone: used up and revoked are one.
    assert "revoked" in try_join(h2, good, "TokenUsedUp").text
    short = new_token(h1, **{"expires-usec": ("t", 1_000_000)})
    time.sleep(1.5)
    try_join(h2, short, "TokenExpired")
    assert len(cluster.members(h1)) == 1 and len(cluster.members(h2)) == 1


def test_join_and_a_token_used_up(three):
    h1, h2, h3 = three
    once = cluster.token(h1)
    done = cluster.join(h2, once)
    assert done.returncode == 0
    cluster.wait_formed([h1, h2])
    try_join(h3, once, "TokenUsedUp")
    # Two hosts have one voter: the second could only make losing quorum more likely.
    assert {(m["name"], m["role"]) for m in cluster.members(h1)} == {("h1", "voter"), ("h2", "observer")}
    with Bus(h2) as bus:
        assert bus.set("/from/h2", "an observer's write") > 0


def test_join_with_a_tree_that_holds_something(three):
    h1, _, h3 = three
    with Bus(h3) as bus:
        bus.set("/mine", "worth keeping")
    token = new_token(h1)
    told = h3.run("treatyctl", "join", token, check=False)
    assert told.returncode == 1 and "--discard" in told.stderr
    try_join(h3, token, "NotEmpty")
    with Bus(h3) as bus:
        assert bus.get("/mine")[0] == b"worth keeping"
    assert len(cluster.members(h1)) == 2
    h3.run("treatyctl", "join", "--discard", token)
    cluster.wait_formed(three)
    with Bus(h3) as bus:
        assert bus.get("/mine") is None
        assert bus.call("Tree.GetText", "/from/h2")[0] == "an observer's write"


def test_joining_again_is_explained(three):
    try_join(three[2], new_token(three[0]), "AlreadyMember")
    cluster.wait_formed(three)


def test_noise_on_the_peer_port(lab, three):
    """Random bytes, half handshakes, strangers with a key of their own, from a network that is not a member."""
    h1 = three[0]
    pids = [main_pid(h) for h in three]
    before = Agent(h1).memory_mib
    stranger = lab.add(9)
    stranger.boot()
    stranger.settle()
    space = ["ip", "netns", "exec", lab.net.host_space(stranger.name)]
    noise = f"""
import os, random, socket, ssl
random.seed(1)
held = []
for n in range(300):
    s = socket.create_connection(('{h1.address}', {PORT}), 5)
    s.settimeout(5)
    try:
        if n % 3 == 0:
            s.sendall(os.urandom(random.randrange(1, 70000)))
        elif n % 3 == 1:
            s.sendall(bytes.fromhex('1603010200010001fc0303') + os.urandom(500))
        else:
            s.sendall(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + os.urandom(64))
    except OSError:
        pass
    if n % 10 == 0:
        held.append(s)
    else:
        s.close()
"""
    done = subprocess.run(space + ["/usr/bin/python3", "-c", noise], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [main_pid(h) for h in three] == pids
    with Bus(three[1]) as bus:
        assert bus.set("/after/noise", "fine") > 0
    cluster.wait_formed(three)
    assert Agent(h1).memory_mib - before < 16
    lab.crash([stranger])


def test_a_stranger_may_ask_to_join_and_nothing_else(lab, three):
    """Any HTTP/2 client with a key of its own is answered, and refused: only Join is looked at."""
    h1, h2, _ = three
    key, empty = f"{lab.dir}/stranger.pem", f"{lab.dir}/empty"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", key, "-out", key + ".crt",
                    "-subj", "/CN=stranger", "-days", "2"], check=True, capture_output=True)
    with open(empty, "wb") as f:
        f.write(bytes(5))  # one message of no bytes, framed

    def ask(call):
        shown = subprocess.run(["ip", "netns", "exec", lab.net.host_space(h2.name), "timeout", "10", "nghttp", "-v",
                                f"--cert={key}.crt", f"--key={key}", "-H", "content-type: application/grpc", "-d", empty,
                                f"https://{h1.address}:{PORT}/treaty.v1.Peer/{call}"], capture_output=True, text=True).stdout
        return re.findall(r"grpc-status: (\d+)", shown)

    for call in ("Talk", "Follow", "Snapshot", "Admin", "Nonsense"):
        assert ask(call) == ["7"], call  # PERMISSION_DENIED
    assert ask("Join") == ["3"]  # INVALID_ARGUMENT: looked at, and nothing in it
    assert len(cluster.members(h1)) == 3


def test_copied_state_of_another_machine(lab, three):
    """A disk copied to another machine would be one voter with two minds: the copy must not start."""
    h2 = three[1]
    clone = lab.add(4)
    h2.run("systemctl", "stop", "treatyd.service")
    shutil.rmtree(f"{clone.dir}/upper/var/lib/treaty", ignore_errors=True)
    os.makedirs(f"{clone.dir}/upper/var/lib", exist_ok=True)
    subprocess.run(["cp", "-a", f"{h2.dir}/upper/var/lib/treaty", f"{clone.dir}/upper/var/lib/treaty"], check=True)
    h2.run("systemctl", "start", "treatyd.service")
    clone.boot()
    clone.settle()
    until(lambda: re.search("another machine|machine-id|machine id|copied|clone", clone.journal("-u", "treatyd.service"), re.I),
          20, "the copy to say why it does not start")
    assert clone.run("systemctl", "is-active", "treatyd.service", check=False).stdout.strip() != "active"
    lab.crash([clone])
    cluster.wait_formed(three)


def test_a_peer_of_another_cluster(lab, three):
    """At the address of h2 answers somebody who has neither its key nor its cluster: nobody talks to it."""
    h1, h2, h3 = three
    h2.run("systemctl", "stop", "treatyd.service")
    h2.run("sh", "-c", "mv /var/lib/treaty /var/lib/treaty.kept && install -d -m 0700 -o treaty -g treaty /var/lib/treaty")
    h2.run("systemctl", "start", "treatyd.service")
    until(lambda: cluster.agent_answers(h2), 15, "the other cluster's agent")
    h2.run("treatyctl", "token")  # makes it listen
    h2.run("treatyctl", "set", "/other", "cluster")
    time.sleep(3)
    seen = {m["name"]: m for m in cluster.members(cluster.leader([h1, h3]))}
    assert set(seen) == {"h1", "h2", "h3"} and not seen["h2"]["connected"]
    assert [m["name"] for m in cluster.members(h2)] == ["h2"]
    with Bus(h1) as bus:
        assert bus.get("/other") is None and bus.set("/two/of/three", "still write") > 0
    with Bus(h2) as bus:
        assert bus.get("/two/of/three") is None
    h2.run("systemctl", "stop", "treatyd.service")
    h2.run("sh", "-c", "rm -r /var/lib/treaty && mv /var/lib/treaty.kept /var/lib/treaty")
    h2.run("systemctl", "start", "treatyd.service")
    cluster.wait_formed(three)
    with Bus(h2) as bus:
        assert bus.call("Tree.Get", "/two/of/three", 1, {})[0] == b"still write"


def test_a_fourth_host_observes_and_takes_the_place_of_a_voter(lab, three):
    """Three vote, the fourth follows, reads, watches and writes like the others; when a voter is removed, it votes."""
    h1, h2, h3 = three
    fifth = lab.add(5)
    lab.boot([fifth])
    until(lambda: cluster.agent_answers(fifth), 15, "the agent on h5")
    cluster.join(fifth, cluster.token(h1))
    cluster.wait_formed([h1, h2, h3, fifth])
    assert {m["name"]: m["role"] for m in cluster.members(fifth)} == {
        "h1": "voter", "h2": "voter", "h3": "voter", "h5": "observer"}
    with Bus(h2) as far, Bus(fifth) as bus:
        assert bus.call("Tree.Get", "/two/of/three", 1, {})[0] == b"still write"
        with bus.watch("/observed") as watch:
            revision = far.set("/observed/x", "1")
            seen = watch.next(10)
            assert (seen.path, seen.value, seen.revision) == ("/observed/x", b"1", revision)
            mine = bus.set("/observed/y", "2")
            assert bus.get("/observed/y")[1] == mine == watch.next(5).revision
        assert far.call("Tree.Get", "/observed/y", 1, {})[:2] == (b"2", mine)
        fd, _ = bus.call("Services.Register", "seen", 1, {})
        until(lambda: [i[1] for i in far.call("Services.List", "seen", 0, "")[0]] == ["h5"], 5, "its registration")
        os.close(fd.to_raw_fd())
        until(lambda: not far.call("Services.List", "seen", 0, "")[0], 5, "the end of its registration")
    # The leader itself is the one to go: it hands over, is demoted, and is removed. h5 takes its place.
    lead = next(h for h in three if h.name == cluster.leader(three).name)
    rest = [h for h in three if h is not lead] + [fifth]
    rest[0].run("treatyctl", "remove", lead.name)
    cluster.wait_formed(rest)
    assert {m["role"] for m in cluster.members(fifth)} == {"voter"}
    with Bus(fifth) as bus:
        assert bus.set("/after/removal", "x") > 0
    # Back in again, as h5 leaves: the next test finds h1, h2 and h3.
    lead.run("systemctl", "stop", "treatyd.service")
    lead.run("sh", "-c", "rm -rf /var/lib/treaty/* /var/lib/treaty/.[!.]*")
    lead.run("systemctl", "start", "treatyd.service")
    until(lambda: cluster.agent_answers(lead), 15, "the agent that begins anew")
    cluster.join(lead, cluster.token(fifth))
    rest[0].run("treatyctl", "remove", "h5")
    lab.crash([fifth])
    cluster.wait_formed(three)
    with Bus(lead) as bus:
        assert bus.call("Tree.Get", "/after/removal", 1, {})[0] == b"x"


def test_a_removed_member_stays_out(lab, three):
    h1, h2, h3 = three
    with Bus(h1) as bus:
        refused("NoSuchMember", bus, "Cluster.Remove", "h77", 0)
    h1.run("treatyctl", "remove", "h3")
    until(lambda: {m["name"] for m in cluster.members(h1)} == {"h1", "h2"}, 10, "h3 to be gone from the members")
    for _ in range(2):
        with Bus(h3) as bus, pytest.raises(BusError):
            bus.set("/from/outside", "x", timeout=3)
        h3.run("systemctl", "restart", "treatyd.service")
        until(lambda: h3.run("busctl", "--no-legend", "status", "org.treaty1", check=False).returncode == 0, 15, "h3's agent")
    for host in (h1, h2):
        assert {m["name"] for m in cluster.members(host)} == {"h1", "h2"}
        with Bus(host) as bus:
            assert bus.get("/from/outside") is None and bus.set("/without/h3", host.name) > 0
    time.sleep(2)
    with Bus(h3) as bus:
        assert bus.get("/without/h3") is None


def state_of(host):
    done = host.run("treatyctl", "status", "--json=short", check=False)
    return json.loads(done.stdout)["State"] if done.stdout.strip() else None


def begin_anew(host, member):
    """What the messages say: remove it there, make a token there, and join anew here. The secret goes over stdin."""
    if any(m["name"] == host.name for m in cluster.members(member)):
        member.run("treatyctl", "remove", host.name)
    before = host.run("cat", "/var/lib/treaty/host").stdout
    host.run("sh", "-c", f"echo {cluster.token(member)} | treatyctl join --discard -", timeout=90)
    after = host.run("cat", "/var/lib/treaty/host").stdout
    assert re.search("HostId=.*", before).group() != re.search("HostId=.*", after).group()


def test_a_removed_member_begins_anew_under_its_name(lab, three):
    h1, h2, h3 = three
    pid = main_pid(h3)
    begin_anew(h3, h1)
    cluster.wait_formed(three)
    assert main_pid(h3) != pid
    assert h3.run("sh", "-c", "ls /var/lib/treaty | grep -cE '^(anew|join)'", check=False).stdout.strip() == "0"
    with Bus(h3) as bus:
        assert bus.call("Tree.Get", "/without/h3", 1, {})[0] in (b"h1", b"h2")
        assert bus.set("/from/h3", "again") > 0


def test_yesterdays_state_is_quarantined(lab, three):
    """The state directory of two starts ago: the others know better, and the host learns it, for good."""
    h1, h2, h3 = three
    h3.run("systemctl", "stop", "treatyd.service")
    h3.run("cp", "-a", "/var/lib/treaty", "/var/lib/treaty.old")
    for _ in range(2):
        h3.run("systemctl", "restart", "treatyd.service")
        cluster.wait_formed(three)
        with Bus(h3) as bus:
            bus.set("/given", "word")
    for host in (h1, h2):  # who greeted it is gone; the tree knows
        host.run("systemctl", "restart", "treatyd.service")
        cluster.wait_formed(three)
    h3.run("systemctl", "stop", "treatyd.service")
    h3.run("sh", "-c", "rm -r /var/lib/treaty && mv /var/lib/treaty.old /var/lib/treaty")
    for _ in range(4):  # its number rises past the known one, and that helps nothing
        h3.run("systemctl", "restart", "treatyd.service")
        until(lambda: state_of(h3) == "quarantined", 15, "h3 to be quarantined")
    assert "treatyctl join --discard" in h3.journal("-u", "treatyd.service", "--grep=set back")
    with Bus(h1) as bus, Bus(h3) as old:
        assert bus.set("/without/yesterday", "x") > 0
        assert old.get("/without/h3") is not None and old.get("/without/yesterday") is None
        with pytest.raises(BusError):
            old.set("/from/yesterday", "x", timeout=3)
    begin_anew(h3, h1)
    cluster.wait_formed(three)
    assert state_of(h3) == "running"


def test_a_wiped_host_joins_by_a_credential(lab, three):
    """All is lost, the name stays. Without the credential the unit starts as well: all the tests before show it."""
    h1, h2, h3 = three
    h1.run("treatyctl", "remove", "h3")
    h3.run("systemctl", "stop", "treatyd.service")
    h3.run("sh", "-c", "rm -rf /var/lib/treaty/* && install -d -m 0700 /etc/credstore && "
                       f"(umask 077; echo {cluster.token(h1)} > /etc/credstore/treaty.join)")
    h3.run("systemctl", "start", "treatyd.service")
    cluster.wait_formed(three)
    h3.run("rm", "/etc/credstore/treaty.join")


def test_a_token_leaves_the_command_line(lab, three):
    h1, h2, h3 = three
    token = "treaty1-" + "A" * 200
    shown = h3.run("sh", "-c", f"systemctl kill -s STOP treatyd.service; timeout 5 treatyctl join {token} & sleep 2; "
                               "pgrep -a treatyctl; systemctl kill -s CONT treatyd.service; wait", check=False).stdout
    assert "treatyctl join ****" in shown and token not in shown
    cluster.wait_formed(three)
