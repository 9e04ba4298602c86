# treatyctl as scripts see it: the exit status is the promise, standard output carries only what was asked for.
import json
import re

import pytest

from lab import cluster
from lab.bus import Bus
from lab.tools import until
from test_tree import NOBODY


@pytest.fixture
def h1(hosts):
    with Bus(hosts[0]) as bus:
        bus.set("/script/there", "as it was")
        revision = bus.get("/script/there")[1]
    hosts[0].revision = revision
    yield hosts[0]


@pytest.mark.parametrize("status, argv", [
    (0, ["get", "/script/there"]),
    (0, ["status"]),
    (0, ["--version"]),
    (0, ["set", "--help"]),
    (0, ["wait-online", "--timeout=10"]),
    (1, ["set", "relative", "x"]),
    (1, ["join", "not a token"]),
    (2, ["nonsense"]),
    (2, ["set", "/script/there"]),
    (2, ["get", "/script/there", "/script/more"]),
    (2, ["get", "--colour=red", "/script/there"]),
    (2, ["get", "--json=xml", "/script/there"]),
    (2, ["get", "--timeout=soon", "/script/there"]),
    (3, ["get", "-q", "/script/nothing"]),
    (4, ["get", "/script/nothing"]),
    (4, ["delete", "/script/nothing"]),
    (4, ["resolve", "nothing"]),
    (4, ["remove", "h77"]),
    (7, ["wait", "/script", "--timeout=200ms", "--exists"]),
    (8, ["create", "/script/there", "x"]),
    (8, ["set", "--if-revision=1", "/script/there", "x"]),
])
def test_exit_status(h1, status, argv):
    done = h1.run("treatyctl", *argv, check=False)
    assert done.returncode == status, f"{done.returncode}: {done.stdout}{done.stderr}"
    if status not in (0, 3):
        assert done.stderr.startswith("treatyctl: ") and done.stdout == ""
    with Bus(h1) as bus:
        assert bus.get("/script/there")[:2] == (b"as it was", h1.revision)


def test_access_is_denied_to_others_than_root(h1):
    done = h1.run("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "treatyctl", "get", "/script/there",
                  check=False)
    assert done.returncode == 5 and "/script/there" in done.stderr and done.stdout == ""
    done = h1.run("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "treatyctl", "services", check=False)
    assert done.returncode == 0, done.stderr


def test_no_agent_is_explained_and_a_stopped_one_is_started(hosts):
    host = next(h for h in hosts if h.name != cluster.leader(hosts).name)
    host.run("systemctl", "mask", "--runtime", "--now", "--quiet", "treatyd.service")
    try:
        done = host.run("treatyctl", "get", "/script/there", check=False)
        assert done.returncode == 1 and "/script/there" in done.stderr and done.stdout == ""
    finally:
        host.run("systemctl", "unmask", "--runtime", "--quiet", "treatyd.service")
    # The bus activates it for the first who asks.
    assert host.run("systemctl", "is-active", "treatyd.service", check=False).stdout.strip() != "active"
    until(lambda: host.run("busctl", "call", "org.treaty1", "/org/treaty1", "org.treaty1.Tree", "GetText", "s", "/script/there",
                           check=False).returncode == 0, 10, "an answer of the activated agent")
    assert host.run("systemctl", "is-active", "treatyd.service", check=False).stdout.strip() == "active"


def test_values_are_bytes(h1):
    value = bytes(range(256)) * 16
    h1.run("treatyctl", "set", "/script/bytes", "-", input=value, text=False)
    assert h1.run("treatyctl", "get", "/script/bytes", text=False).stdout == value
    entries = json.loads(h1.run("treatyctl", "list", "-r", "/script", "--json=short").stdout)
    assert {e["path"]: e.get("value") for e in entries}["/script/there"] == "as it was"
    assert next(e for e in entries if e["path"] == "/script/bytes")["value_base64"]


def test_members_tell_who_leads_and_how_far_each_is(hosts):
    # Every host tells the leader how far it is, once a second; the others ask him.
    for host in hosts:
        until(lambda: all((m["applied"] or 0) > 0 for m in cluster.members(host)), 10,
              lambda: f"{host.name} to know how far each is; it knows {cluster.members(host)}")
    table = cluster.members(hosts[1])
    assert [m["role"] for m in table] == ["voter"] * 3 and sum(m["leader"] for m in table) == 1
    for member in table:
        assert member["connected"] and member["addresses"], member
        assert re.fullmatch(r"[0-9a-f]{16}", member["id"]), member
    shown = hosts[1].run("treatyctl", "members").stdout
    assert all(host.name in shown for host in hosts) and "APPLIED" in shown
