# The tree through the front door: what a user gets, and what wrong input gets. Every refusal is followed by a look at
# whether anything changed: bad input loses nothing.
import os
import re
import threading
import time
import xml.etree.ElementTree

import pytest

from lab.bus import DELETE, MARK, OVERFLOW, PUT, Bus, BusError, Gone
from lab.bench import Agent
from lab.build import CHECKOUT
from lab.tools import until

MIB = 1024 * 1024
INVALID_ARGS = "org.freedesktop.DBus.Error.InvalidArgs"
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
NOBODY = 65534


@pytest.fixture
def buses(hosts):
    opened = [Bus(h) for h in hosts]
    yield opened
    for bus in opened:
        bus.close()


@pytest.fixture
def bus(buses):
    return buses[0]


@pytest.fixture
def quiet(bus):
    """The tree must be the same after the test as before it."""
    bus.set("/kept", b"as it was")
    before = bus.list("/")
    yield
    assert {p: e for p, e in bus.list("/").items() if not p.startswith("/services/")} == \
           {p: e for p, e in before.items() if not p.startswith("/services/")}


def refused(name, bus, member, *args, **options):
    with pytest.raises(BusError) as told:
        bus.call(member, *args, **options)
    assert told.value.name == name, told.value
    assert told.value.text, "an error without a sentence"
    return told.value


def main_pid(host, unit="treatyd.service"):
    return host.run("systemctl", "show", "--property=MainPID", "--value", unit).stdout.strip()


# ---- What a user gets ----


@pytest.mark.parametrize("writer, reader", [(1, 2), (0, 1), (2, 0)])
def test_busctl_as_printed(hosts, writer, reader):
    call = ["busctl", "call", "org.treaty1", "/org/treaty1", "org.treaty1.Tree"]
    told = hosts[writer].run(*call, "SetText", "ss", "/config/web/port", "8080").stdout
    revision = re.fullmatch(r"t (\d+)\n", told).group(1)
    # A local read may be a moment behind a write elsewhere; it never shows anything wrong.
    read = until(lambda: (lambda s: s if s.endswith(f" {revision}\n") else None)(
        hosts[reader].run(*call, "GetText", "s", "/config/web/port", check=False).stdout), 5, "the write to arrive")
    assert read == f'st "8080" {revision}\n'


def test_a_write_is_read_at_once_where_it_was_answered(buses):
    for n in range(20):
        for bus in buses:
            value = f"{n} {bus.host.name}".encode()
            revision = bus.set("/now", value)
            assert bus.get("/now")[:2] == (value, revision)


def test_linearizable_reads_see_writes_of_other_hosts(buses):
    for n in range(20):
        revision = buses[n % 3].set("/line", f"{n}")
        value, at, _ = buses[(n + 1) % 3].call("Tree.Get", "/line", 1, {})
        assert (bytes(value), at) == (f"{n}".encode(), revision)


def test_reading_waits_for_a_revision(buses):
    for n in range(20):
        revision = buses[0].set("/later", f"{n}")
        assert buses[1].call("Tree.Get", "/later", 0, {"min-revision": ("t", revision)})[1] == revision


def test_an_entry_tells_its_history(bus):
    if bus.get("/meta"):
        bus.call("Tree.Delete", "/meta", 0, {})
    first = bus.set("/meta", "one")
    second = bus.set("/meta", "two")
    value, modified, info = bus.get("/meta")
    assert (value, modified, info["create-revision"], info["version"]) == (b"two", second, first, 2)
    assert info["revision"] >= second and info["age-usec"] < 5_000_000


def test_create_refuses_what_exists_and_conditions_hold(bus):
    if bus.get("/once"):
        bus.call("Tree.Delete", "/once", 0, {})
    revision = bus.call("Tree.Create", "/once", b"1", 0, {})
    refused("Exists", bus, "Tree.Create", "/once", b"2", 0, {})
    refused("Conflict", bus, "Tree.Set", "/once", b"2", 0, {"if-mod-revision": ("t", revision - 1)})
    assert bus.get("/once")[0] == b"1"
    assert bus.call("Tree.Set", "/once", b"2", 0, {"if-mod-revision": ("t", revision)}) > revision
    refused("Conflict", bus, "Tree.Set", "/once", b"3", 0, {"if-mod-revision": ("t", 0)})


def test_delete_of_a_subtree_is_one_revision(bus):
    for n in range(5):
        bus.set(f"/heap/{n}/x", str(n))
    bus.set("/heapless", "no part of it")
    with bus.watch("/", since=0) as watch:
        revision = bus.call("Tree.Delete", "/heap", 1, {})
        gone = [watch.next() for _ in range(5)]
    assert [r.path for r in gone] == [f"/heap/{n}/x" for n in range(5)]
    assert {(r.kind, r.revision) for r in gone} == {(DELETE, revision)}
    assert [r.last for r in gone] == [False] * 4 + [True]
    assert bus.list("/heap") == {} and bus.get("/heapless")[0] == b"no part of it"
    refused("NoSuchEntry", bus, "Tree.Delete", "/heap", 1, {})


def test_lists_are_paged_and_ordered(bus):
    wanted = [f"/many/{n:04}" for n in range(2500)]
    for path in wanted:
        bus.send("Tree.Set", path, b"", 0, {})
        bus.collect()
    entries, after, _ = bus.call("Tree.List", "/many", 0, "", 0)
    assert len(entries) == 1000 and after
    assert list(bus.list("/many")) == wanted
    children, _, _ = bus.call("Tree.List", "/", 2, "", 0)
    assert ("/many", 0) in [(path, modified) for path, _, _, modified, _ in children]
    bus.call("Tree.Delete", "/many", 1, {})


def test_the_tool_does_the_same(hosts):
    h1, h2 = hosts[:2]
    h1.run("treatyctl", "set", "/tool/a", "from the tool")
    until(lambda: h2.run("treatyctl", "get", "/tool/a", check=False).stdout.rstrip("\n") == "from the tool", 5, "the write")
    assert "/tool/a" in h1.run("treatyctl", "list", "/tool").stdout
    h1.run("treatyctl", "delete", "/tool/a")
    missing = h1.run("treatyctl", "get", "/tool/a", check=False)
    assert missing.returncode == 4 and "/tool/a" in missing.stderr and missing.stdout == ""
    assert h1.run("treatyctl", "frobnicate", check=False).returncode == 2
    assert h1.run("treatyctl", "--help").stdout.count("\n") > 10
    assert h1.run("treatyctl", "status").stdout


def test_what_is_served_is_what_is_documented(bus):
    def methods(node):
        return {(i.get("name"), m.get("name")): [(a.get("name"), a.get("type"), a.get("direction")) for a in m.iter("arg")]
                for i in node.iter("interface") for m in i.iter("method")}

    served = methods(xml.etree.ElementTree.fromstring(bus.introspect()))
    for name in ("Tree", "Services", "Cluster"):
        documented = methods(xml.etree.ElementTree.parse(f"{CHECKOUT}/dbus/org.treaty1.{name}.xml"))
        assert documented and {k: v for k, v in served.items() if k[0] == f"org.treaty1.{name}"} == documented


# ---- Watching ----


def test_a_watch_tells_every_change_once_in_order(buses):
    writer, reader = buses[0], buses[2]
    with reader.watch("/w", flags=3) as watch:
        written = []
        for n in range(200):
            written.append((f"/w/{n % 7}", f"{n}".encode(), writer.set(f"/w/{n % 7}", f"{n}")))
            writer.set("/elsewhere", "not seen")
        told = [watch.next() for _ in written]
    assert [(r.path, r.value, r.revision) for r in told] == written
    assert told[7].had_previous and told[7].previous == b"0"
    assert [r.kind for r in told] == [PUT] * 200


def test_a_watch_from_the_past_repeats_it_exactly(buses):
    first = buses[0].set("/past/a", "1")
    second = buses[0].set("/past/b", "2")
    third = buses[0].call("Tree.Delete", "/past/a", 0, {})
    for bus in buses:
        bus.call("Tree.Get", "/past/b", 0, {"min-revision": ("t", third)})
        with bus.watch("/past", since=first) as watch:
            assert [(r.kind, r.path, r.revision) for r in (watch.next(), watch.next(), watch.next())] == [
                (PUT, "/past/a", first), (PUT, "/past/b", second), (DELETE, "/past/a", third)]
        with bus.watch("/past/b", flags=0, since=first) as watch:
            assert watch.next().revision == second


def test_wait_answers_on_change_and_at_its_end(buses):
    revision = buses[0].set("/waited/x", "1")
    buses[1].call("Tree.Get", "/waited/x", 0, {"min-revision": ("t", revision)})
    began = time.monotonic()
    assert buses[1].call("Tree.Wait", "/waited", revision, 300_000)[0] is False
    assert 0.25 < time.monotonic() - began < 3
    serial = buses[1].send("Tree.Wait", "/waited", revision, 0)
    later = buses[0].set("/waited/x", "2")
    answered, (changed, at) = buses[1].collect(5)
    assert answered == serial and changed is True and at >= later


def test_treatyctl_watch_follows_another_host(hosts):
    following = hosts[1].popen("treatyctl", "watch", "/followed", stdout=-1, stderr=-1, text=True)
    try:
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(iter(following.stdout.readline, "")), daemon=True)
        reader.start()
        # The tool says nothing before the first change; write until it has begun to follow.
        until(lambda: hosts[0].run("treatyctl", "set", "/followed/first", "x") and lines, 10, "the first line", step=0.2)
        hosts[0].run("treatyctl", "set", "/followed/port", "8081")
        until(lambda: any("/followed/port" in line and "8081" in line for line in lines), 5, "the change")
        hosts[2].run("treatyctl", "delete", "/followed/port")
        until(lambda: "/followed/port" in lines[-1] and "8081" not in lines[-1], 5, "the deletion")
    finally:
        following.kill()
        following.wait()


# ---- Bad input gets a clear error and loses nothing ----


@pytest.mark.parametrize("path", ["", "relative", "a/b", "//", "/a//b", "/a/", "/a/./b", "/a/../b", "/..", "/.", "/" + "x" * 1024,
                                  "/" + "é" * 512])
def test_wrong_paths(bus, quiet, path):
    refused("InvalidPath", bus, "Tree.SetText", path, "value")
    refused("InvalidPath", bus, "Tree.GetText", path)
    refused("InvalidPath", bus, "Tree.Create", path, b"", 0, {})
    refused("InvalidPath", bus, "Tree.Delete", path, 1, {})
    refused("InvalidPath", bus, "Tree.Watch", path, 1, 0)


def test_the_longest_path_is_a_path(bus):
    path = "/" + "x" * 1023
    bus.set(path, "fits")
    assert bus.get(path)[0] == b"fits"
    bus.call("Tree.Delete", path, 0, {})


def test_values_over_a_mebibyte(bus):
    largest = os.urandom(MIB)
    revision = bus.set("/large", largest)
    assert bus.get("/large")[:2] == (largest, revision)
    refused("TooLarge", bus, "Tree.Set", "/large", largest + b"x", 0, {})
    refused("TooLarge", bus, "Tree.SetText", "/large", "x" * (MIB + 1))
    refused("TooLarge", bus, "Tree.Create", "/larger", b"x" * (20 * MIB), 0, {})
    assert bus.get("/large")[:2] == (largest, revision) and bus.get("/larger") is None
    bus.call("Tree.Delete", "/large", 0, {})


@pytest.mark.parametrize("value", [b"\xff\xfe", b"nul\0inside", b"\xc3"])
def test_text_reads_of_binary_values(bus, value):
    bus.set("/binary", value)
    refused("NotText", bus, "Tree.GetText", "/binary")
    assert bus.get("/binary")[0] == value


@pytest.mark.parametrize("member, args", [
    ("Tree.Get", ("/kept", 1 << 63, {})), ("Tree.Get", ("/kept", 2, {})), ("Tree.Set", ("/kept", b"x", 1, {})),
    ("Tree.Create", ("/new", b"x", 4, {})), ("Tree.Delete", ("/kept", 2, {})), ("Tree.List", ("/kept", 8, "", 0)),
    ("Tree.Watch", ("/kept", 8, 0)), ("Cluster.Token", (1, {})), ("Cluster.Remove", ("h3", 1)),
    ("Services.List", ("", 2, "")), ("Services.Resolve", ("web", 2)),
])
def test_unknown_flags(bus, quiet, member, args):
    refused(INVALID_ARGS, bus, member, *args)


@pytest.mark.parametrize("member, args", [
    ("Tree.Get", ("/kept", 0, {"min-revison": ("t", 1)})), ("Tree.Set", ("/kept", b"x", 0, {"timeout": ("t", 1)})),
    ("Tree.Set", ("/kept", b"x", 0, {"timeout-usec": ("s", "soon")})), ("Cluster.Token", (0, {"use": ("u", 1)})),
    ("Services.Register", ("web", 1, {"colour": ("s", "red")})),
])
def test_unknown_or_wrong_options(bus, quiet, member, args):
    refused(INVALID_ARGS, bus, member, *args)


@pytest.mark.parametrize("member, signature, args", [
    ("Tree.SetText", "s", ("/kept",)), ("Tree.SetText", "sss", ("/kept", "a", "b")), ("Tree.SetText", "su", ("/kept", 1)),
    ("Tree.Set", "ssta{sv}", ("/kept", "text", 0, {})), ("Tree.GetText", "", ()), ("Tree.Watch", "stx", ("/kept", 1, -1)),
    ("Services.Register", "sqt", ("web", 1, 0)), ("Cluster.Join", "s", ("token",)),
])
def test_wrong_signatures(bus, quiet, member, signature, args):
    refused(INVALID_ARGS, bus, member, *args, signature=signature)


def test_unknown_methods_and_requests(bus, quiet):
    refused("org.freedesktop.DBus.Error.UnknownMethod", bus, "Tree.Frobnicate", signature="")
    for request in ("", "x", "1", "1:2:3:4", "99999999999999999999999", "é"):
        refused("InvalidRequest", bus, "Tree.Outcome", request)


def test_others_than_root_read_services_and_nothing_else(hosts, bus, quiet):
    for private in (False, True):
        try:
            nobody = Bus(hosts[0], private=private, uid=NOBODY)
        except PermissionError:
            assert private
            continue
        with nobody:
            assert nobody.call("Services.List", "", 0, "") is not None
            nobody.call("Tree.List", "/services", 0, "", 0)
            for member, args in (("Tree.Get", ("/kept", 0, {})), ("Tree.GetText", ("/kept",)),
                                 ("Tree.List", ("/", 0, "", 0)), ("Tree.Watch", ("/", 1, 0)),
                                 ("Tree.Set", ("/services/web/h1", b"x", 0, {})), ("Tree.SetText", ("/kept", "x")),
                                 ("Tree.Delete", ("/kept", 0, {})), ("Cluster.Token", (0, {})),
                                 ("Cluster.Remove", ("h3", 0)), ("Services.Register", ("web", 1, {})),
                                 ("Services.RegisterUnit", ("web", "a.service", "0" * 32, 1, {}))):
                refused(DENIED, nobody, member, *args)


def test_callers_that_disappear(hosts, bus):
    pid = main_pid(hosts[0])
    for private in (False, True):
        for n in range(100):
            caller = Bus(hosts[0], private=private)
            caller.send("Tree.Set", f"/left/{n}", b"x" * 1000, 0, {})
            if n % 3 == 0:
                caller.send("Tree.Wait", "/left", 1 << 40, 0)
            if n % 5 == 0:
                caller.send("Tree.Watch", "/left", 1, 0)
            caller.close()
    # Each of them was complete when its caller left, so each may have been done; none twice, none in part.
    bus.set("/left/end", "x")
    assert all(value in (b"x" * 1000, b"x") and version <= 2 for value, _, _, version in bus.list("/left").values())
    assert main_pid(hosts[0]) == pid
    bus.call("Tree.Delete", "/left", 1, {})


@pytest.mark.parametrize("private", [False, True])
def test_ten_thousand_calls_without_waiting(hosts, private):
    pid = main_pid(hosts[1])
    with Bus(hosts[1], private=private) as bus, Bus(hosts[0]) as other:
        answers = []

        def collect():
            while len(answers) < 10000:
                answers.append(bus.collect(60))

        reader = threading.Thread(target=collect, daemon=True)
        reader.start()
        sent = [bus.send("Tree.Set", f"/flood/{n % 100}", f"{n}".encode(), 0, {}) for n in range(10000)]
        other.set("/meanwhile", "others are served")
        reader.join(90)
        assert not reader.is_alive(), f"only {len(answers)} answers"
        assert sorted(serial for serial, _ in answers) == sorted(sent)
        done = {revision for _, revision in answers if not isinstance(revision, Exception)}
        refusals = {e.name for _, e in answers if isinstance(e, BusError)}
        assert refusals <= {"Busy", "org.freedesktop.DBus.Error.LimitsExceeded"}, refusals
        assert len(done) >= 128
        # What was refused was not done, what was done was done once: versions count.
        entries = bus.list("/flood")
        assert sum(version for _, _, _, version in entries.values()) == len(done)
        assert main_pid(hosts[1]) == pid
        bus.call("Tree.Delete", "/flood", 1, {})


def test_a_watcher_that_never_reads_harms_nobody(hosts):
    host = hosts[0]
    with Bus(host) as bus, Bus(host, private=True) as writer:
        start = writer.set("/slow/start", "x")
        idle = [bus.watch("/slow") for _ in range(20)]
        reading = bus.watch("/slow")
        told, stop = [], threading.Event()

        def read():
            while not stop.is_set():
                try:
                    told.append(reading.next(0.2))
                except TimeoutError:
                    pass

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        before = Agent(host).memory_mib
        value, slowest = b"s" * 65536, 0.0
        for n in range(400):
            at = time.monotonic()
            end = writer.set(f"/slow/{n}", value)
            slowest = max(slowest, time.monotonic() - at)
        most = Agent(host).memory_mib
        until(lambda: told and told[-1].revision >= end, 10, "the watcher that reads")
        stop.set()
        reader.join(5)
        assert [r.path for r in told if r.kind == PUT] == [f"/slow/{n}" for n in range(400)]
        # 20 watchers x 25 MiB were not read; each may have a mebibyte waiting.
        assert most - before < 64, f"{before:.1f} MiB, then {most:.1f} MiB"
        assert slowest < 3
        # Those who did not read find no gap: what they have is in order, and the end says where to go on.
        for watch in idle[:3]:
            records = []
            while True:
                record = watch.next(5)
                if record is None:
                    break
                if record.kind != MARK:
                    records.append(record)
                if record.kind == OVERFLOW or record.revision >= end:
                    break
            puts = [r for r in records if r.kind == PUT]
            assert [r.path for r in puts] == [f"/slow/{n}" for n in range(len(puts))]
            if records[-1].kind == OVERFLOW:
                assert start < records[-1].revision <= (puts[-1].revision + 1 if puts else end)
                with bus.watch("/slow", since=records[-1].revision) as again:
                    assert again.next(10).revision >= records[-1].revision
        for watch in idle + [reading]:
            watch.close()
        writer.call("Tree.Delete", "/slow", 1, {})


def test_a_lost_connection_is_no_answer(hosts):
    """The test's own tool: a caller whose host dies hears of it, so that no test can wait for ever."""
    bus = Bus(hosts[2])
    hosts[2].fleet.crash([hosts[2]])
    with pytest.raises((Gone, OSError)):
        bus.call("Tree.Get", "/kept", 0, {}, timeout=5)
