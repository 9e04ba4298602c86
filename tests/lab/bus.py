# A host's bus, spoken from outside with a D-Bus library nobody here wrote (jeepney).
#
# The sockets of a running host can be reached through /proc/PID/root. Argument signatures come from the checked-in XML
# in dbus/, so calls read like the XML, and a method that serves something else than it documents is found out.
import glob
import os
import re
import struct
import time
import xml.etree.ElementTree

from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call
from jeepney.io.blocking import DBusConnection, DBusConnectionBase, MessageFilters, Router, _Future, prep_socket

from .build import CHECKOUT
from .tools import LabError

SYSTEM = "/run/dbus/system_bus_socket"
PRIVATE = "/run/treaty/private"
NAME, OBJECT = "org.treaty1", "/org/treaty1"
ERROR = "org.treaty1.Error."


class BusError(LabError):
    """An error reply: its name, without our own prefix, and its text."""

    def __init__(self, name, text):
        super().__init__(f"{name}: {text}")
        self.name, self.text = name.removeprefix(ERROR), text

    @property
    def request(self):
        """What Outcome wants to know of an Unknown."""
        found = re.search(r"request (\S+?)[.)]?$", self.text)
        if not found:
            raise LabError(f"an Unknown without 'request ID' at its end: {self.text!r}")
        return found.group(1)


class Gone(LabError):
    """The connection ended before the reply came."""


def contract():
    """(interface, method) -> the signature that goes in, as the XML in dbus/ documents it."""
    methods = {}
    for path in glob.glob(f"{CHECKOUT}/dbus/org.treaty1.*.xml"):
        for interface in xml.etree.ElementTree.parse(path).iter("interface"):
            for method in interface.iter("method"):
                methods[interface.get("name").removeprefix("org.treaty1."), method.get("name")] = "".join(
                    arg.get("type") for arg in method.iter("arg") if arg.get("direction") == "in")
    return methods


METHODS = contract()


class Peer(DBusConnection):
    """A connection without a broker: nobody to say Hello to."""

    def __init__(self, sock, enable_fds):
        DBusConnectionBase.__init__(self, sock, enable_fds)
        self._router, self._filters = Router(_Future), MessageFilters()


def connect_socket(host, path, uid):
    """A socket to `path` inside the host, authenticated as uid: the credentials are those of who connects."""
    where = os.open(host.path(os.path.dirname(path)), os.O_PATH | os.O_DIRECTORY)
    short = f"/proc/self/fd/{where}/{os.path.basename(path)}"
    groups = os.getgroups()
    try:
        if uid != 0:
            os.setgroups([])
            os.setresgid(uid, uid, 0)
            os.setresuid(uid, uid, 0)
        return prep_socket(short, enable_fds=True, timeout=5)
    finally:
        if uid != 0:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)
            os.setgroups(groups)
        os.close(where)


class Bus:
    """One connection to one host. Methods are named as "Tree.Get"."""

    def __init__(self, host, private=False, uid=0):
        self.host = host
        sock = connect_socket(host, PRIVATE if private else SYSTEM, uid)
        self.link = Peer(sock, True) if private else DBusConnection(sock, True)
        self.waiting = {}

    def close(self):
        self.link.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def message(self, member, args, signature=None, interface=None):
        short, method = member.split(".")
        if signature is None:
            signature = METHODS[short, method]
        address = DBusAddress(OBJECT, NAME, interface or f"org.treaty1.{short}")
        return new_method_call(address, method, signature or None, args)

    def call(self, member, *args, timeout=30, signature=None):
        """The reply's value, a tuple of them when there are many; raises BusError for an error reply."""
        try:
            return unpack(self.link.send_and_get_reply(self.message(member, args, signature), timeout=timeout))
        except (ConnectionError, BrokenPipeError, OSError) as e:
            if isinstance(e, TimeoutError):
                raise
            raise Gone(f"{self.host.name}: {e}")

    def send(self, member, *args, signature=None):
        """Sends without waiting; returns what collect() knows the reply by."""
        serial = next(self.link.outgoing_serial)
        self.link.send(self.message(member, args, signature), serial=serial)
        return serial

    def collect(self, timeout=30):
        """The next reply to something sent: (serial, value or BusError)."""
        deadline = time.monotonic() + timeout
        while True:
            message = self.link.receive(timeout=max(0, deadline - time.monotonic()))
            serial = message.header.fields.get(HeaderFields.reply_serial)
            if serial is not None:
                try:
                    return serial, unpack(message)
                except BusError as e:
                    return serial, e

    def property(self, interface, name):
        address = DBusAddress(OBJECT, NAME, "org.freedesktop.DBus.Properties")
        call = new_method_call(address, "Get", "ss", (f"org.treaty1.{interface}", name))
        return unpack(self.link.send_and_get_reply(call, timeout=10))[1]

    def introspect(self):
        address = DBusAddress(OBJECT, NAME, "org.freedesktop.DBus.Introspectable")
        return unpack(self.link.send_and_get_reply(new_method_call(address, "Introspect"), timeout=10))

    # -- the few calls that everything is made of -----------------------------------------------------------------

    def set(self, path, value, timeout=10, patience=20):
        value = value.encode() if isinstance(value, str) else value
        return self.call("Tree.Set", path, value, 0, {"timeout-usec": ("t", int(timeout * 1e6))}, timeout=timeout + patience)

    def get(self, path):
        """(value, mod_revision, info), None when there is no entry."""
        try:
            value, revision, info = self.call("Tree.Get", path, 0, {})
        except BusError as e:
            if e.name == "NoSuchEntry":
                return None
            raise
        return bytes(value), revision, {key: variant[1] for key, variant in info.items()}

    def list(self, path="/", flags=0):
        """All entries at and below path, over all pages: path -> (value, create_revision, mod_revision, version)."""
        found, after = {}, ""
        while True:
            entries, after, _ = self.call("Tree.List", path, flags, after, 0)
            for name, value, created, modified, version in entries:
                found[name] = (bytes(value), created, modified, version)
            if not after:
                return found

    def watch(self, path, flags=1, since=0):
        fd, revision = self.call("Tree.Watch", path, flags, since)
        return Watch(fd.to_raw_fd(), revision)


def unpack(message):
    body = message.body
    if message.header.message_type == MessageType.error:
        raise BusError(message.header.fields[HeaderFields.error_name], body[0] if body else "")
    return None if not body else body[0] if len(body) == 1 else tuple(body)


PUT, DELETE, MARK, COMPACTED, OVERFLOW = 1, 2, 3, 4, 5
HEADER = struct.Struct("<IBBHQQQII")


class Record:
    def __init__(self, data):
        (_, self.kind, flags, path_size, self.revision, self.create_revision, self.version, value_size,
         previous_size) = HEADER.unpack_from(data)
        self.last, self.had_previous = bool(flags & 1), bool(flags & 2)
        at = HEADER.size
        self.path = data[at:at + path_size].decode()
        self.value = data[at + path_size:at + path_size + value_size]
        self.previous = data[at + path_size + value_size:]
        assert len(self.previous) == previous_size

    def __repr__(self):
        return f"<{self.kind} {self.path}={self.value[:20]!r} at {self.revision}>"


class Watch:
    """The end of a watch that reads: records off the fd, as the XML draws them."""

    def __init__(self, fd, revision):
        self.fd, self.revision = fd, revision
        os.set_blocking(fd, False)
        self.data = b""

    def next(self, timeout=10):
        """The next record; None at the end of the stream; TimeoutError when nothing comes."""
        deadline = time.monotonic() + timeout
        while True:
            if len(self.data) >= HEADER.size:
                size = HEADER.unpack_from(self.data)[0]
                assert HEADER.size <= size <= 3 * 1024 * 1024
                if len(self.data) >= size:
                    record, self.data = Record(self.data[:size]), self.data[size:]
                    return record
            try:
                more = os.read(self.fd, 1 << 20)
                if not more:
                    assert not self.data, "the stream ended inside a record"
                    return None
                self.data += more
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError("no record on the watch")
                time.sleep(0.005)

    def until_quiet(self, quiet=0.5):
        """All records that come until nothing has come for a while."""
        records = []
        try:
            while True:
                record = self.next(quiet)
                if record is None:
                    return records
                records.append(record)
        except TimeoutError:
            return records

    def close(self):
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
