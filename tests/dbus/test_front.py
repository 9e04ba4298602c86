#!/usr/bin/python3
"""The front door of a real host of one (front.c), called from outside with a D-Bus library nobody here wrote: on the
private socket, and on a dbus-daemon of type system that comes, goes and comes again.

    test_front.py FRONT XML_DIRECTORY [NAME…]       runs all tests, or those named
"""
import fcntl
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import xml.etree.ElementTree

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

try:
    from jeepney import DBusAddress, HeaderFields, MessageType, message_bus, new_method_call, new_method_return
    from jeepney.io.blocking import prep_socket
    from lab import bus as labbus
    from lab.bus import Bus, BusError, Gone, Watch, unpack
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

if os.getuid() != 0:
    print("skipped: needs root, to call as other users")
    sys.exit(77)

FRONT, XML = sys.argv[1], sys.argv[2]
NOBODY, DAEMON = 65534, 1
DENIED = "org.freedesktop.DBus.Error.AccessDenied"
INVALID = "org.freedesktop.DBus.Error.InvalidArgs"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"
MIB = 1024 * 1024
SANITIZED = b"__asan_init" in open(FRONT, "rb").read()

labbus.PRIVATE, labbus.SYSTEM = "/private", "/bus"


def bus_message(member, path, flags, options):
    interface, name = member.split(".")
    return new_method_call(DBusAddress("/org/treaty1", "org.treaty1", "org.treaty1." + interface), name, "sta{sv}",
                           (path, flags, options)).serialise(serial=9)


def connect_socket(host, path, uid):
    """In place of the lab's, which enters a host first: a socket whose peer sees the credentials of `uid`."""
    groups = os.getgroups()
    try:
        if uid != 0:
            os.setgroups([])
            os.setresgid(uid, uid, 0)
            os.setresuid(uid, uid, 0)
        return prep_socket(host.path(path), enable_fds=True, timeout=5)
    finally:
        if uid != 0:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            os.setgroups(groups)


labbus.connect_socket = connect_socket


class Host:
    """A front in a directory of its own; stands where the lab's hosts stand for lab.bus."""

    def __init__(self, with_bus=False):
        self.name, self.dir = "front", tempfile.mkdtemp(prefix="front-", dir="/tmp")
        os.chmod(self.dir, 0o755)
        os.mkdir(self.path("/state"))
        self.env = dict(os.environ, DBUS_SYSTEM_BUS_ADDRESS="unix:path=" + self.path("/bus") if with_bus else "")
        self.fds, self.broker, self.process = [], None, None

    def path(self, name):
        return self.dir + name

    def start(self, **more):
        self.log = open(self.path("/log"), "a")
        self.process = subprocess.Popen([FRONT, self.path("/state"), self.path("/private")], env=dict(self.env, **more),
                                        stdout=subprocess.PIPE, stderr=self.log)
        assert self.process.stdout.readline() == b"ready\n", open(self.path("/log")).read()
        eventually(lambda: self.call("Tree.SetText", "/started", "yes") > 0)
        return self

    def stop(self, how=signal.SIGTERM):
        if self.process:
            self.process.send_signal(how)
            code = self.process.wait(20)
            self.process = None
            assert code == (0 if how == signal.SIGTERM else -how), f"ended with {code}: " + open(self.path("/log")).read()

    def call(self, member, *args, **more):
        with Bus(self, private=True) as bus:
            return bus.call(member, *args, **more)

    def start_broker(self):
        config = f"""<busconfig><type>system</type><listen>unix:path={self.path("/bus")}</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow user="*"/><allow send_destination="*"/><allow receive_sender="*"/>
            <allow own="*"/></policy></busconfig>"""
        with open(self.path("/bus.conf"), "w") as file:
            file.write(config)
        self.broker = subprocess.Popen(["dbus-daemon", "--nofork", "--config-file=" + self.path("/bus.conf")])
        eventually(lambda: os.path.exists(self.path("/bus")))

    def stop_broker(self):
        self.broker.kill()
        self.broker.wait()

    def rss(self):
        """Under a sanitizer, which keeps what was freed, memory tells nothing."""
        if SANITIZED:
            return 0
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{self.process.pid}/status").read()).group(1)) * 1024

    def n_fds(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            if self.process:
                self.process.kill()
            if self.broker:
                self.stop_broker()
            subprocess.run(["rm", "-rf", self.dir])


def eventually(true, timeout=15):
    deadline = time.monotonic() + timeout
    while True:
        try:
            if true():
                return
        except (OSError, BusError, Gone):
            pass
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.02)


def refused(name, call, *args, **more):
    try:
        call(*args, **more)
    except BusError as error:
        assert error.name == name, f"{error.name} instead of {name}: {error.text}"
        return error.text
    raise AssertionError(f"{args} was not refused")


# ---- the tests ------------------------------------------------------------------------------------------------------


def shape(text):
    """interface -> member -> what a caller sees of it."""
    found = {}
    for interface in xml.etree.ElementTree.fromstring(text).iter("interface"):
        members = found[interface.get("name")] = {}
        for m in interface:
            args = tuple((a.get("name"), a.get("type"), a.get("direction")) for a in m.iter("arg"))
            notes = tuple(sorted((a.get("name"), a.get("value")) for a in m.iter("annotation")))
            members[m.tag, m.get("name")] = (args, m.get("type"), m.get("access"), notes)
    return found


def test_what_is_served_is_what_the_xml_says(host):
    with Bus(host, private=True) as bus:
        served = shape(bus.introspect())
    for name in "Tree", "Services", "Cluster":
        full = f"org.treaty1.{name}"
        with open(f"{XML}/{full}.xml") as file:
            documented = shape(re.sub(r"<!DOCTYPE[^>]*>", "", file.read()))
        assert served[full] == documented[full], f"{full}:\n{served[full]}\n{documented[full]}"
        assert documented[full]


def test_values_come_back(host):
    with Bus(host, private=True) as bus:
        revision = bus.call("Tree.SetText", "/config/web/port", "8080")
        assert bus.call("Tree.GetText", "/config/web/port") == ("8080", revision)
        value, mod, info = bus.get("/config/web/port")
        assert (value, mod, info["version"], info["create-revision"]) == (b"8080", revision, 1, revision)
        assert info["revision"] >= revision and "owner" not in info
        blob = bytes(range(256)) * 4096
        assert bus.set("/blob", blob) > revision and bus.get("/blob")[0] == blob
        assert refused("NotText", bus.call, "Tree.GetText", "/blob").startswith("/blob: the value is not text")
        assert bus.set("/empty", b"") and bus.get("/empty")[0] == b""
        assert bus.call("Tree.Delete", "/blob", 0, {}) and bus.get("/blob") is None
        assert bus.call("Tree.Get", "/empty", 1, {})[0] == b""
        assert bus.property("Tree", "Revision") >= revision


def test_plain_calls_are_answered_as_sd_bus_answers_them(host):
    """Get and Set without options are answered in front of sd-bus, with options by it: a client cannot tell."""
    with Bus(host, private=True) as bus, Bus(host, private=True, uid=NOBODY) as stranger:
        bus.set("/plain/large", b"L" * 50_000), bus.set("/plain/owned", b"o")
        bus.set("/services/web/h1", b"{}")

        def answer(who, options, member, *args):
            try:
                return who.call("Tree." + member, *args, options)
            except BusError as e:
                return e.name, e.text

        def twice(who, member, *args):
            plain, other = (answer(who, options, member, *args) for options in ({}, {"timeout-usec": ("t", 5_000_000)}))
            if isinstance(plain, tuple) and len(plain) == 3:  # what time alone changes
                assert plain[2].keys() == other[2].keys()
                plain[2]["age-usec"] = other[2]["age-usec"]
            assert plain == other, (plain, other)
            return plain

        for path in "/started", "/plain/large", "/plain/none", "/", "no/path", "/plain/ü", "/" + "x" * 1023:
            for flags in 0, 1, 2:
                twice(bus, "Get", path, flags)
        assert twice(bus, "Get", "/plain/none", 1)[0] == "NoSuchEntry"
        assert twice(bus, "Get", "/plain/large", 1)[0] == b"L" * 50_000
        assert twice(stranger, "Get", "/started", 0)[0] == DENIED
        assert twice(stranger, "Set", "/started", b"", 0)[0] == DENIED
        assert twice(stranger, "Get", "/services/web/h1", 0)[0] == b"{}"
        assert twice(bus, "Set", "/plain/a", b"", 1)[0] == INVALID
        assert twice(bus, "Set", "/", b"", 0)[0] == "InvalidPath"
        for size in 0, 1, 7, 12_000, 15_000, 16_384, 70_000:
            first = answer(bus, {}, "Set", "/plain/a", b"v" * size, 0)
            assert twice(bus, "Get", "/plain/a", 0)[:2] == (b"v" * size, first)
            assert answer(bus, {"timeout-usec": ("t", 1_000_000)}, "Set", "/plain/a", b"w" * size, 0) == first + 1


def test_messages_come_in_any_pieces(host):
    """Plain calls and others, cut anywhere and many at once: each is answered once, whoever reads it."""
    with Bus(host, private=True) as bus:
        bus.set("/pieces/large", b"L" * 40_000)
        calls = [("Tree.Set", "/pieces/a", b"x", 0, {}), ("Tree.Get", "/pieces/large", 0, {}),
                 ("Tree.SetText", "/pieces/b", "y" * 300), ("Tree.Get", "/pieces/none", 1, {}),
                 ("Tree.Set", "/pieces/a", b"z" * 30_000, 0, {}), ("Tree.Get", "/pieces/b", 0, {})]
        for piece in 1, 7, 16, 100, 333, 4096, 1 << 20:
            stream, expected = b"", set()
            for _ in range(1 if piece == 1 else 5):
                for member, *args in calls[:4] if piece == 1 else calls:
                    serial = next(bus.link.outgoing_serial)
                    stream += bus.message(member, tuple(args)).serialise(serial)
                    expected.add(serial)
            for at in range(0, len(stream), piece):
                bus.link.sock.sendall(stream[at:at + piece])
            for _ in range(len(expected)):
                serial, answer = bus.collect()
                assert not isinstance(answer, BusError) or answer.name == "NoSuchEntry", answer
                expected.remove(serial)
            assert not expected
        # What sd-bus has read half of is not looked into by others, though the rest looks like a call.
        inner = bus.message("Tree.Get", ("/started", 0, {})).serialise(next(bus.link.outgoing_serial))
        serial = next(bus.link.outgoing_serial)
        outer = bus.message("Tree.Set", ("/pieces/c", inner, 0, {})).serialise(serial)
        at = outer.index(inner)
        bus.link.sock.sendall(outer[:at])
        time.sleep(0.1)
        bus.link.sock.sendall(outer[at:])
        assert bus.collect()[0] == serial and bus.get("/pieces/c")[0] == inner


def test_conditions_hold(host):
    with Bus(host, private=True) as bus:
        condition = lambda revision: {"if-mod-revision": ("t", revision)}  # noqa: E731
        first = bus.call("Tree.Create", "/c", b"1", 0, {})
        refused("Exists", bus.call, "Tree.Create", "/c", b"1", 0, {})
        refused("Conflict", bus.call, "Tree.Set", "/c", b"2", 0, condition(0))
        refused("Conflict", bus.call, "Tree.Set", "/c", b"2", 0, condition(first + 7))
        second = bus.call("Tree.Set", "/c", b"2", 0, condition(first))
        refused("Conflict", bus.call, "Tree.Delete", "/c", 0, condition(first))
        bus.call("Tree.Delete", "/c", 0, condition(second))
        refused("NoSuchEntry", bus.call, "Tree.Delete", "/c", 0, {})
        refused("NoSuchEntry", bus.call, "Tree.Get", "/c", 0, {})
        bus.call("Tree.Set", "/c", b"3", 0, condition(0))


def test_bad_input_is_named(host):
    with Bus(host, private=True) as bus:
        for path in "", "relative", "/a//b", "/a/", "/a/../b", "/a/./b", "/" + "x" * 1024, "/a\nb", "/":
            refused("InvalidPath", bus.call, "Tree.SetText", path, "x")
            refused("InvalidPath", bus.call, "Tree.GetText", path)
        assert "is relative" in refused("InvalidPath", bus.call, "Tree.GetText", "relative")
        bus.call("Tree.SetText", "/" + "x" * 1023, "x")
        assert "1 MiB" in refused("TooLarge", bus.call, "Tree.Set", "/large", bytes(MIB + 1), 0, {})
        refused("TooLarge", bus.call, "Tree.SetText", "/large", "x" * (MIB + 1))
        assert "0x8" in refused(INVALID, bus.call, "Tree.Set", "/a", b"", 8, {})
        refused(INVALID, bus.call, "Tree.Get", "/a", 2, {})
        refused(INVALID, bus.call, "Tree.List", "/", 8, "", 0)
        refused(INVALID, bus.call, "Tree.List", "/", 0, "", 1001)
        refused(INVALID, bus.call, "Tree.Watch", "/", 8, 0)
        refused(INVALID, bus.call, "Tree.Wait", "/", 0, 20_000_001)
        assert "if-mod-revison" in refused(INVALID, bus.call, "Tree.Set", "/a", b"", 0, {"if-mod-revison": ("t", 1)})
        refused(INVALID, bus.call, "Tree.Set", "/a", b"", 0, {"timeout-usec": ("s", "1")})
        refused(INVALID, bus.call, "Tree.Set", "/a", b"", 0, {"timeout-usec": ("t", 0)})
        refused(INVALID, bus.call, "Tree.GetText", "/a", 5, signature="st")
        refused(INVALID, bus.call, "Tree.SetText", "/a", signature="s")
        for request in "", "7", "0000000000000000.1", "x" * 5000:
            refused("InvalidRequest", bus.call, "Tree.Outcome", request)
        refused("InvalidName", bus.call, "Services.Register", "we/b", 80, {})
        refused("InvalidName", bus.call, "Services.Resolve", "", 0)
        refused("NoSuchService", bus.call, "Services.Resolve", "none", 0)
        refused("NoSuchMember", bus.call, "Cluster.Remove", "nobody", 0)
        refused("InvalidToken", bus.call, "Cluster.Join", "rubbish", 0)
        refused("InvalidToken", bus.call, "Cluster.RevokeToken", "rubbish")
        refused(INVALID, bus.call, "Cluster.Token", 0, {"uses": ("u", 0)})
        refused(INVALID, bus.call, "Cluster.Token", 0, {"class": ("s", "king")})


def test_lists_have_pages(host):
    with Bus(host, private=True) as bus:
        for i in range(25):
            bus.set(f"/list/{i:02}/x", str(i))
        seen, after = [], ""
        while True:
            entries, after, revision = bus.call("Tree.List", "/list", 0, after, 10)
            assert len(entries) <= 10
            seen += [entry[0] for entry in entries]
            if not after:
                break
        assert seen == [f"/list/{i:02}/x" for i in range(25)]
        children, _, _ = bus.call("Tree.List", "/list", 2, "", 0)
        assert [(c[0], c[3]) for c in children] == [(f"/list/{i:02}", 0) for i in range(25)]
        names, _, _ = bus.call("Tree.List", "/list", 4, "", 3)
        assert [n[1] for n in names] == [b"", b"", b""]


def test_users_read_services_only(host):
    host.call("Tree.SetText", "/services/web/other", "{}")
    host.call("Tree.SetText", "/config/secret", "x")
    for uid in NOBODY, DAEMON:
        with Bus(host, private=True, uid=uid) as bus:
            assert bus.call("Tree.GetText", "/services/web/other")[0] == "{}"
            assert bus.call("Tree.List", "/services", 0, "", 0)[0]
            assert bus.call("Services.List", "", 0, "")[0][0][:2] == ("web", "other")
            assert bus.call("Services.Resolve", "web", 0)[0][0] == "other"
            assert bus.call("Cluster.ListMembers")[0][1] == "h1"
            assert bus.property("Cluster", "Role") == "leader"
            with bus.watch("/services"):
                pass
            text = refused(DENIED, bus.call, "Tree.GetText", "/config/secret")
            assert text.startswith(f"User {uid} may not read /config/secret: only root"), text
            for call in [("Tree.List", "/", 0, "", 0), ("Tree.Watch", "/", 1, 0), ("Tree.Wait", "/config", 0, 0),
                         ("Tree.SetText", "/services/web/h1", "x"), ("Tree.Delete", "/services/web/other", 0, {}),
                         ("Tree.Create", "/x", b"", 0, {}), ("Tree.Outcome", "0000000000000001.1"),
                         ("Services.Register", "web", 1, {}), ("Services.ListUnits",),
                         ("Services.RegisterUnit", "web", "web.service", "0" * 32, 1, {}),
                         ("Services.UnregisterUnit", "web.service", ""), ("Cluster.Token", 0, {}),
                         ("Cluster.Join", "x", 0), ("Cluster.Remove", "h1", 0), ("Cluster.TransferLeadership", ""),
                         ("Cluster.RevokeToken", "x"), ("Cluster.Scrub", 0)]:
                refused(DENIED, bus.call, *call)
    assert host.call("Tree.GetText", "/services/web/other")[0] == "{}"


def test_scrub_reads_all_of_the_tree_now(host):
    with Bus(host, private=True) as bus, Bus(host, private=True) as other:
        for n in range(600):
            bus.set(f"/scrub/{n}", "x")
        before = time.time()
        rows = bus.call("Cluster.Scrub", 0)
        assert rows >= 1200, rows  # keys and history
        assert bus.property("Cluster", "ScrubbedUSec") >= int(before * 1e6)
        bus.set("/scrub/more", "y")
        assert other.call("Cluster.Scrub", 0) > rows
        refused("org.freedesktop.DBus.Error.InvalidArgs", bus.call, "Cluster.Scrub", 1)


def test_a_watch_tells_every_change_once_and_in_order(host):
    with Bus(host, private=True) as bus:
        with bus.watch("/w", flags=3) as watch:
            revisions = [bus.set("/w/a", "1"), bus.set("/w/a", "2"), bus.call("Tree.Delete", "/w/a", 0, {})]
            bus.set("/wx", "not below")
            records = [watch.next() for _ in range(3)]
            assert [r.revision for r in records] == revisions
            assert [(r.kind, r.path, r.value, r.previous, r.last, r.had_previous) for r in records] == [
                (labbus.PUT, "/w/a", b"1", b"", True, False), (labbus.PUT, "/w/a", b"2", b"1", True, True),
                (labbus.DELETE, "/w/a", b"", b"2", True, True)]
            assert watch.until_quiet(0.3) == []
        with bus.watch("/w", flags=1, since=revisions[1]) as watch:
            assert [r.revision for r in watch.until_quiet(0.5)] == revisions[1:]


def test_an_idle_watcher_costs_little_and_catches_up(host):
    """100 MiB pass an idle watcher: the agent keeps about the queue's limit, others are not slowed, and he gets all. (A checkpoint
    whose disk is busy lets the tree's open transaction grow to 32 MiB; that is not the watcher's.)"""
    with Bus(host, private=True) as bus, Bus(host, private=True) as other:
        with bus.watch("/idle") as watch:
            bus.set("/idle/x", bytes(MIB))
            before = host.rss()
            revisions = [bus.set("/idle/x", bytes([i]) * MIB) for i in range(100)]
            grown = host.rss() - before
            assert grown < 64 * MIB, f"{grown} bytes more"
            begin = time.monotonic()
            other.call("Tree.SetText", "/quick", "x")
            assert time.monotonic() - begin < 5
            records = [watch.next() for _ in range(101)]
            assert [r.revision for r in records[1:]] == revisions
            assert [r.value[:1] for r in records[1:]] == [bytes([i]) for i in range(100)]


def test_all_idle_watchers_together_are_bounded(host):
    """100 idle watchers, 4 changes of 1 MiB (400 MiB, were there no common limit): memory stays bounded, and somebody who reads is
    not kept from watching by them. Who heard OVERFLOW, or was closed as idle, watches again and misses nothing."""
    with Bus(host, private=True) as bus:
        watches = [bus.watch("/many") for _ in range(100)]
        before = host.rss()
        revisions = [bus.set("/many/x", bytes([i]) * MIB) for i in range(4)]
        assert host.rss() - before < 192 * MIB, f"{host.rss() - before} bytes more"
        time.sleep(1.2)
        ends = 0
        for watch in [bus.watch("/many", since=revisions[0])] + watches:
            seen = []
            while len(seen) < len(revisions):
                try:
                    record = watch.next()
                except AssertionError:  # closed inside a record
                    record = None
                if record is None or record.kind == labbus.OVERFLOW:
                    ends += 1
                    watch.close()
                    watch = bus.watch("/many", since=revisions[len(seen)])
                    continue
                seen.append(record.revision)
            assert seen == revisions
            watch.close()
        assert 0 < ends < 200, ends


def test_a_closed_watch_is_forgotten(host):
    with Bus(host, private=True) as bus:
        before = host.n_fds()
        for _ in range(50):
            bus.watch("/closed").close()
        bus.set("/closed/x", "1")
        eventually(lambda: host.n_fds() == before)
        fd, _ = bus.call("Tree.Watch", "/closed", 1, 0)
        fd = fd.to_raw_fd()
        try:
            os.write(fd, b"rubbish")
            raise AssertionError("the stream took what nobody reads")
        except BrokenPipeError:
            os.close(fd)


def test_watches_per_user_are_counted(host):
    with Bus(host, private=True, uid=NOBODY) as bus:
        fds = []
        try:
            for _ in range(1024):
                fds.append(bus.call("Tree.Watch", "/services", 1, 0)[0].to_raw_fd())
            assert "Too many watches" in refused(LIMITS, bus.call, "Tree.Watch", "/services", 1, 0)
        finally:
            for fd in fds:
                os.close(fd)
        eventually(lambda: bus.watch("/services").close() is None)


def test_many_users_do_not_lock_root_out(host):
    buses, fds = [Bus(host, private=True, uid=uid) for uid in (NOBODY, DAEMON, 2)], []
    try:
        for bus in buses[:2]:
            for _ in range(1024):
                fds.append(bus.call("Tree.Watch", "/services", 1, 0)[0].to_raw_fd())
        assert "Too many watches" in refused(LIMITS, buses[2].call, "Tree.Watch", "/services", 1, 0)
        refused(LIMITS, buses[2].call, "Tree.Wait", "/services", 1 << 60, 1000)
        fds.append(host.call("Tree.Watch", "/", 1, 0)[0].to_raw_fd())
    finally:
        for fd in fds:
            os.close(fd)
        for bus in buses:
            bus.close()


def test_wait_is_a_long_poll(host):
    with Bus(host, private=True) as bus, Bus(host, private=True) as writer:
        revision = bus.set("/wait/x", "1")
        changed, now = bus.call("Tree.Wait", "/wait", revision - 1, 0)
        assert changed and now >= revision
        begin = time.monotonic()
        changed, now = bus.call("Tree.Wait", "/wait", now, 300_000)
        assert not changed and 0.25 < time.monotonic() - begin < 5
        bus.send("Tree.Wait", "/wait", now, 10_000_000)
        time.sleep(0.1)
        writer.set("/waitx", "not below")
        revision = writer.set("/wait/y/z", "1")
        begin = time.monotonic()
        _, (changed, now) = bus.collect()
        assert changed and now >= revision and time.monotonic() - begin < 5
        # Behind a caller who is gone nothing is left: 600 polls of two lost clients, then there is room again.
        for _ in range(2):
            with Bus(host, private=True) as lost:
                for _ in range(300):
                    lost.send("Tree.Wait", "/wait", now, 20_000_000)
        assert not bus.call("Tree.Wait", "/wait", now, 100_000)[0]


def test_ten_thousand_calls_without_waiting(host):
    """All are answered, each once: done or LimitsExceeded; somebody else is not slowed meanwhile."""
    with Bus(host, private=True) as bus, Bus(host, private=True) as other:
        slowest = []
        done = threading.Event()

        def live():
            while not done.is_set():
                begin = time.monotonic()
                other.call("Tree.GetText", "/started")
                slowest.append(time.monotonic() - begin)

        def flood():
            for i in range(10_000):
                sent.add(bus.send("Tree.SetText", f"/flood/{i % 100}", str(i)))

        sent, answers = set(), {}
        threads = [threading.Thread(target=flood), threading.Thread(target=live)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while len(answers) < 10_000:
            serial, answer = bus.collect()
            assert serial not in answers
            answers[serial] = answer
        took = time.monotonic() - began
        done.set()
        for thread in threads:
            thread.join()
        assert set(answers) == sent
        errors = {a.name for a in answers.values() if isinstance(a, BusError)}
        assert errors <= {LIMITS, "Busy"}, errors
        assert sum(isinstance(a, int) for a in answers.values()) >= 1000
        assert max(slowest) < max(1, took / 4), f"{max(slowest)} s of {took} s"  # on a busy machine all takes longer


def test_a_client_that_does_not_read_its_replies(host):
    """He gets his bound of memory and no more; others are served."""
    host.call("Tree.Set", "/unread", bytes(MIB), 0, {})
    with Bus(host, private=True) as bus:
        before = host.rss()
        bus.link.sock.settimeout(2)
        try:
            for _ in range(2000):
                bus.send("Tree.Get", "/unread", 0, {})
        except (socket.timeout, OSError):
            pass
        host.call("Tree.SetText", "/quick", "x")
        # Without a bound 2,000 answers of 1 MiB would wait; copies and what malloc keeps come on top of the bound.
        assert host.rss() - before < 256 * MIB, f"{host.rss() - before} bytes more"


def test_unread_answers_that_are_not_ours_are_bounded(host):
    """Introspection and properties are sd-bus's to answer: who asks for ever and never reads must not fill our memory."""
    ask = new_method_call(DBusAddress("/org/treaty1", "org.treaty1", "org.freedesktop.DBus.Introspectable"), "Introspect")
    before = host.rss()
    for _ in range(2):
        with Bus(host, private=True, uid=NOBODY) as bus:
            bus.link.sock.settimeout(2)
            try:
                for i in range(20_000):
                    bus.link.send(ask, serial=i + 1)
            except (socket.timeout, OSError):
                pass
            host.call("Tree.SetText", "/quick", "x")
            assert host.rss() - before < 96 * MIB, f"{host.rss() - before} bytes more"


def test_fds_that_nobody_asked_for_are_refused(host):
    """No method takes an fd, and sd-bus would keep those of a malformed message for ever: who sends any is hung up on."""
    wait = new_method_call(DBusAddress("/org/treaty1", "org.treaty1", "org.treaty1.Tree"), "Wait", "stt",
                           ("/services", 1 << 60, 20_000_000))
    without = wait.serialise(serial=1)
    wait.header.fields[HeaderFields.unix_fds] = 200
    right = wait.serialise(serial=1)
    before, null = host.n_fds(), os.open("/dev/null", os.O_RDONLY)

    def authenticated():
        raw = socket.socket(socket.AF_UNIX)
        raw.settimeout(5)
        raw.connect(host.path("/private"))
        raw.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\n")
        said = b""
        while b"AGREE_UNIX_FD\r\n" not in said:
            said += raw.recv(100)
        return raw

    get = bus_message("Tree.Get", "/started", 0, {})
    for begin, data in ((b"BEGIN\r\n", right), (b"BEGIN\r\n", without), (b"BEGIN\r\n", without[:30]), (b"BEGIN\r\n", b"x" * 99),
                        (b"BEGIN\r\n" + get, without), (b"BEGIN\r\n" + get[:20], get[20:]), (b"", b"BEGIN\r\n" + without)):
        for pause in 0, 0.1:
            raw = authenticated()
            raw.sendall(begin)
            time.sleep(pause)
            socket.send_fds(raw, [data], [null] * 200)
            try:
                while raw.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            eventually(lambda: host.n_fds() <= before)
            raw.close()
    os.close(null)
    assert host.call("Tree.SetText", "/quick", "x")


def test_messages_without_end_take_no_memory(host):
    """sd-bus keeps up to 128 MiB of a message that is not there as a whole: of a stranger it gets to see 2 at most."""
    with Bus(host, private=True, uid=NOBODY) as bus:
        try:
            bus.call("Tree.Set", "/large", bytes(MIB + 1), 0, {})
            raise AssertionError("a stranger may write")
        except BusError as e:
            assert e.name == "TooLarge"
    before, links = host.rss(), [Bus(host, private=True, uid=NOBODY) for _ in range(8)]
    data = links[0].message("Tree.Set", ("/large", bytes(30 * MIB), 0, {})).serialise(serial=1)
    n_broken = 0
    for bus in links:
        bus.link.sock.settimeout(5)
        try:
            bus.link.sock.sendall(data[:-1])
        except (BrokenPipeError, ConnectionResetError):
            n_broken += 1
    grown = host.rss() - before
    assert n_broken == len(links) and grown < 32 * MIB, f"{n_broken} broken, {grown} bytes more"
    for bus in links:
        bus.close()


def test_callers_disappear_in_the_middle(host):
    before = host.n_fds()
    for _ in range(30):
        with Bus(host, private=True) as bus:
            for i in range(20):
                bus.send("Tree.SetText", f"/gone/{i}", "x")
            bus.send("Services.Register", "gone", 1, {})
            bus.send("Tree.Watch", "/", 1, 0)
            bus.send("Tree.Wait", "/nothing", 1 << 60, 20_000_000)
    for bytes_ in b"", b"\0", b"\0AUTH EXTERNAL 30\r\n", os.urandom(4096):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(host.path("/private"))
            raw.send(bytes_ or b"\0")
    # The log opens and closes files of its own meanwhile; thirty callers would have left ninety.
    eventually(lambda: host.n_fds() <= before + 4)
    eventually(lambda: host.call("Tree.List", "/services/gone", 0, "", 0)[0] == [])


def test_connections_are_counted(host):
    links = []
    try:
        for _ in range(32):
            links.append(Bus(host, private=True, uid=NOBODY))
        try:
            Bus(host, private=True, uid=NOBODY).call("Cluster.ListMembers")
            raise AssertionError("a 33rd connection of one user was served")
        except (OSError, EOFError, Gone):
            pass
        assert host.call("Cluster.ListMembers")
    finally:
        for link in links:
            link.close()


def test_services_live_as_long_as_their_fd(host):
    with Bus(host, private=True) as bus:
        fd, revision = bus.call("Services.Register", "web", 8080, {
            "priority": ("q", 1), "weight": ("q", 5), "ttl": ("u", 30), "text": ("as", ["a=b"]),
            "properties": ("a{ss}", {"path": "/healthz"})})
        fd = fd.to_raw_fd()
        instances, after = bus.call("Services.List", "web", 0, "")
        assert [tuple(i[:7]) for i in instances] == [("web", "h1", "192.0.2.1", 8080, 1, 5, revision)] and after == ""
        assert '"properties":{"path":"/healthz"}' in instances[0][7] and '"ttl":30' in instances[0][7]
        assert bus.get("/services/web/h1:8080")[2]["owner"] == "h1"
        assert bus.call("Services.Resolve", "web", 0) == [("h1", "192.0.2.1", 8080, 1, 5)]
        refused("Exists", bus.call, "Services.Register", "web", 8080, {})
        copy = os.dup(fd)
        os.close(fd)
        time.sleep(0.3)
        assert bus.call("Services.Resolve", "web", 0)
        os.close(copy)
        begin = time.monotonic()
        eventually(lambda: bus.call("Services.List", "web", 0, "")[0] == [], timeout=4)  # sooner than a session ends
        assert time.monotonic() - begin < 4
        fd, _ = bus.call("Services.Register", "web", 0, {"address": ("s", "example.org")})
        assert bus.call("Services.Resolve", "web", 0) == [("h1", "example.org", 0, 0, 0)]
        os.close(fd.to_raw_fd())


def test_units_are_spoken_for(host):
    one, two = "1" * 32, "2" * 32
    with Bus(host, private=True) as bus:
        first = bus.call("Services.RegisterUnit", "unit", "web@a.service", one, 80, {})
        assert bus.call("Services.RegisterUnit", "unit", "web@a.service", one, 80, {}) == first
        assert bus.call("Services.ListUnits") == [("unit", "web@a.service", one, "/services/unit/h1:80")]
        refused("Exists", bus.call, "Services.RegisterUnit", "unit", "other.service", one, 80, {})
        with bus.watch("/services/unit") as watch:
            bus.call("Services.RegisterUnit", "unit", "web@a.service", two, 80, {})
            assert labbus.DELETE not in [r.kind for r in watch.until_quiet(0.3)]
        assert bus.call("Services.UnregisterUnit", "web@a.service", one) == 0
        assert bus.call("Services.UnregisterUnit", "web@a.service", "") == 1
        eventually(lambda: bus.call("Services.List", "unit", 0, "")[0] == [])
        # Withdrawn while it is being registered: both calls are answered.
        serial = bus.send("Services.RegisterUnit", "hasty", "hasty.service", one, 80, {})
        bus.send("Services.UnregisterUnit", "hasty.service", one)
        answers = dict(bus.collect() for _ in range(2))
        assert isinstance(answers[serial], BusError) and answers[serial].name == "Conflict", answers
        eventually(lambda: bus.call("Services.List", "hasty", 0, "")[0] == [])
        refused(INVALID, bus.call, "Services.RegisterUnit", "unit", "no/unit.service", one, 80, {})
        refused(INVALID, bus.call, "Services.RegisterUnit", "unit", "web.service", "xyz", 80, {})


class FdStore:
    """What PID 1 does with FDSTORE=1: keeps the fds and hands them to the next process."""

    def __init__(self, host):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(host.path("/notify"))
        self.socket.settimeout(5)
        self.path, self.kept = host.path("/notify"), {}

    def receive(self):
        text, fds, _, _ = socket.recv_fds(self.socket, 4096, 4)
        fields = dict(line.split("=", 1) for line in text.decode().splitlines())
        if "FDSTORE" in fields:
            assert fields["FDPOLL"] == "0"
            self.kept[fields["FDNAME"]] = fds[0]
        elif "FDSTOREREMOVE" in fields:
            os.close(self.kept.pop(fields["FDNAME"]))

    def launcher(self, host):
        """A command that has the kept fds from 3 on, and says so in its environment, as systemd does."""
        names, fds = list(self.kept), list(self.kept.values())
        script = host.path("/launch")
        with open(script, "w") as file:
            file.write("#!/bin/sh\nLISTEN_PID=$$ exec " + FRONT + ' "$@"\n')
        os.chmod(script, 0o755)
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100 + i) for i, fd in enumerate(fds)]

        def place():
            for i, fd in enumerate(high):
                os.dup2(fd, 3 + i)
        env = dict(host.env, NOTIFY_SOCKET=self.path, LISTEN_FDS=str(len(names)), LISTEN_FDNAMES=":".join(names))
        host.process = subprocess.Popen([script, host.path("/state"), host.path("/private")], env=env, preexec_fn=place,
                                        close_fds=False, stdout=subprocess.PIPE, stderr=host.log)
        for fd in high:
            os.close(fd)
        assert host.process.stdout.readline() == b"ready\n", open(host.path("/log")).read()


def test_a_restart_ends_no_registration(host):
    host.stop()
    store = FdStore(host)
    host.start(NOTIFY_SOCKET=store.path)
    with Bus(host, private=True) as bus:
        kept = bus.call("Services.Register", "kept", 1, {})[0].to_raw_fd()
        store.receive()
        brief = bus.call("Services.Register", "brief", 1, {})[0].to_raw_fd()
        store.receive()
        gone = bus.call("Services.Register", "gone", 1, {})[0].to_raw_fd()
        store.receive()
        os.close(gone)
        store.receive()
        revision = bus.get("/services/kept/h1:1")[1]
    assert len(store.kept) == 2
    for fd in kept, brief:
        os.set_inheritable(fd, False)  # or the next agent would hold the caller's end too
    for how in signal.SIGTERM, signal.SIGKILL:
        host.stop(how)
        if how == signal.SIGKILL:
            os.close(brief)  # while nobody looks
        store.launcher(host)
        with Bus(host, private=True) as bus:
            eventually(lambda: bus.call("Tree.SetText", "/started", "again"))
            assert bus.get("/services/kept/h1:1")[1] == revision
            eventually(lambda: (bus.get("/services/brief/h1:1") is None) == (how == signal.SIGKILL))
            assert bus.get("/services/gone/h1:1") is None
    store.receive()
    os.close(kept)
    store.receive()
    assert not store.kept
    eventually(lambda: host.call("Services.List", "kept", 0, "")[0] == [])


def test_what_has_no_fd_after_a_restart_ends(host):
    with Bus(host, private=True) as bus:
        fd = bus.call("Services.Register", "lost", 1, {})[0].to_raw_fd()
    host.stop(signal.SIGKILL)
    host.start()
    eventually(lambda: host.call("Services.List", "lost", 0, "")[0] == [])
    os.close(fd)


def test_outcomes_can_be_asked_for(host):
    with Bus(host, private=True) as bus:
        state, _ = bus.call("Tree.Outcome", "ffffffffffffffff.1")
        assert state in ("never", "too-old", "undecided"), state


def test_tokens_are_made_and_withdrawn(host):
    with Bus(host, private=True) as bus:
        token = bus.call("Cluster.Token", 0, {"uses": ("u", 2), "class": ("s", "leaf")})
        assert isinstance(token, str) and len(token) > 40
        bus.call("Cluster.RevokeToken", token)
        refused("AlreadyMember", bus.call, "Cluster.Join", token, 0)


def test_the_log_level_is_roots_to_set(host):
    address = DBusAddress("/org/freedesktop/LogControl1", "org.treaty1", "org.freedesktop.DBus.Properties")
    log = "org.freedesktop.LogControl1"

    def get(bus):
        return unpack(bus.link.send_and_get_reply(new_method_call(address, "Get", "ss", (log, "LogLevel"))))[1]

    def put(bus, value):
        unpack(bus.link.send_and_get_reply(new_method_call(address, "Set", "ssv", (log, "LogLevel", ("s", value)))))

    with Bus(host, private=True) as root, Bus(host, private=True, uid=NOBODY) as user:
        level = get(user)
        refused(DENIED, put, user, "debug")
        assert get(root) == level
        refused(INVALID, put, root, "loud")
        put(root, "warning")
        assert get(user) == "warning"
        put(root, level)


def test_the_bus_may_come_late_and_go(bus_host):
    """No bus at start; a bus; the same killed and started again: the agent lives on and comes back each time."""
    host = bus_host
    assert host.call("Tree.GetText", "/started")
    for _ in range(2):
        host.start_broker()
        eventually(lambda: Bus(host).call("Tree.SetText", "/over-the-bus", "x") > 0, timeout=20)
        host.stop_broker()
        os.unlink(host.path("/bus"))
        assert host.call("Tree.GetText", "/over-the-bus")[0] == "x"
    host.start_broker()
    eventually(lambda: Bus(host).call("Tree.GetText", "/over-the-bus")[0] == "x", timeout=20)


def test_callers_on_the_bus_are_told_apart(bus_host):
    host = bus_host
    host.start_broker()
    eventually(lambda: Bus(host).call("Tree.SetText", "/config/x", "x") > 0, timeout=20)
    with Bus(host) as root, Bus(host, uid=NOBODY) as user, Bus(host, uid=DAEMON) as daemon:
        # All at once, before the bus has told who they are, and in order.
        sent = [root.send("Tree.SetText", "/order", str(i)) for i in range(50)]
        users = [user.send("Tree.GetText", "/config/x") for _ in range(20)]
        replies = [root.collect() for _ in sent]
        assert [serial for serial, _ in replies] == sent
        revisions = [revision for _, revision in replies]
        assert revisions == sorted(revisions) and root.call("Tree.GetText", "/order")[0] == "49"
        for _ in users:
            assert user.collect()[1].name == DENIED
        assert daemon.call("Cluster.ListMembers")
        # No polkit on this bus: closed.
        assert "polkit" in refused(DENIED, user.call, "Cluster.Token", 0, {})
        fd, _ = root.call("Tree.Watch", "/order", 0, 0)
        with Watch(fd.to_raw_fd(), 0) as watch:
            root.call("Tree.SetText", "/order", "end")
            assert watch.next().value == b"end"


def test_the_bus_sees_changes_of_state(bus_host):
    """PropertiesChanged names what changed and nothing else: here, that a host of one got its leader."""
    host = bus_host
    host.start_broker()
    eventually(lambda: Bus(host).call("Cluster.ListMembers"), timeout=20)
    with Bus(host) as bus:
        assert bus.property("Cluster", "Quorate") is True
        assert bus.property("Cluster", "Leader") == "h1"
        assert bus.property("Cluster", "State") == "running"
        assert re.fullmatch("[0-9a-f]{32}", bus.property("Cluster", "ClusterId"))
        assert bus.property("Cluster", "MemberCount") == bus.property("Cluster", "VoterCount") == 1


# ---- polkit ---------------------------------------------------------------------------------------------------------


class Polkit(threading.Thread):
    """Sits where polkit sits on this bus and says what it is told to; records what it was asked."""

    def __init__(self, host, yes, challenge=False):
        super().__init__(daemon=True)
        self.bus, self.asked, self.answer = Bus(host), [], (yes, challenge, {})
        reply = self.bus.link.send_and_get_reply(message_bus.RequestName("org.freedesktop.PolicyKit1"))
        assert unpack(reply) == 1
        self.start()

    def run(self):
        while True:
            try:
                message = self.bus.link.receive()
            except (OSError, EOFError, ConnectionError):
                return
            if message.header.message_type == MessageType.method_call:
                self.asked.append(message.body)
                self.bus.link.send(new_method_return(message, "(bba{ss})", (self.answer,)))


def test_polkit_decides_for_others_on_the_bus(bus_host):
    host = bus_host
    host.start_broker()
    eventually(lambda: Bus(host).call("Cluster.ListMembers"), timeout=20)
    polkit = Polkit(host, yes=True)
    with Bus(host, uid=NOBODY) as user:
        name = user.link.unique_name
        assert len(user.call("Cluster.Token", 0, {})) > 40
        subject, action, details, flags, _ = polkit.asked[-1]
        assert subject == ("system-bus-name", {"name": ("s", name)}), subject
        assert (action, flags) == ("org.treaty1.manage-cluster", 0)
        refused(DENIED, user.call, "Tree.SetText", "/x", "polkit is not asked about the tree")
        n = len(polkit.asked)
        polkit.answer = (False, False, {})
        refused(DENIED, user.call, "Cluster.Token", 0, {})
        assert len(polkit.asked) == n + 1, "a yes was remembered"
        polkit.answer = (False, True, {})
        refused("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", user.call, "Cluster.Token", 0, {})


# ---- run ------------------------------------------------------------------------------------------------------------


def main():
    wanted, failed, n = sys.argv[3:], 0, 0
    for name, test in list(globals().items()):
        if not name.startswith("test_") or (wanted and name not in wanted):
            continue
        n += 1
        begin = time.monotonic()
        try:
            with Host(with_bus="bus_host" in test.__code__.co_varnames[:1]) as host:
                try:
                    test(host.start())
                except BaseException:
                    print(open(host.path("/log")).read()[-2000:])
                    raise
            print(f"ok      {time.monotonic() - begin:5.1f} s  {name}", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc(limit=-4)
            print(f"FAILED  {time.monotonic() - begin:5.1f} s  {name}", flush=True)
    print(f"{n - failed} passed, {failed} failed")
    return 1 if failed else 0


sys.exit(main())
