# Clients of a soak: on every host some that write and one that reads, each noting what it was told and when.
#
# Every write carries a value that no other write has, and every key has one writer. So each answer can be held against
# the history later (proof.py) without any search: what a read at revision R must have seen is one state.
import threading
import time

from .bus import Bus, BusError
from .tools import LabError

WRITERS_PER_HOST = 2
KEYS_PER_WRITER = 4
PAUSE = 0.004  # between writes, so that a round's history stays readable
PATIENCE = 40  # beyond a call's own deadline: a host may be frozen for 20 s while it waits
# Errors of which the manual says that nothing was written and nothing will be.
NEVER = ("NoQuorum", "Busy", "DiskFull", "Stopping", "Halted", "NotMember", "SessionLost", "Timeout",
         "NoTree")


class Write:
    """One write and what its caller was told of it."""

    def __init__(self, path, value, host):
        self.path, self.value, self.host = path, value, host
        self.told, self.revision, self.request = "nothing", None, None
        self.fate = None  # of an Unknown, as Outcome told it soon after
        self.began, self.ended = time.monotonic(), None


class Read:
    """What was found at some paths when the tree was at a revision."""

    def __init__(self, host, revision, found, began, linearizable):
        self.host, self.revision, self.found, self.linearizable = host, revision, found, linearizable
        self.began, self.ended = began, time.monotonic()


class Client(threading.Thread):
    """Does one thing on one host until told to stop or until its connection ends."""

    private = False

    def __init__(self, host):
        super().__init__(daemon=True)
        self.host, self.stop, self.wrong = host, threading.Event(), None

    def run(self):
        try:
            with Bus(self.host, private=self.private) as bus:
                while not self.stop.is_set():
                    self.act(bus)
                    time.sleep(PAUSE)
        except TimeoutError:
            self.wrong = "a call had neither an answer nor the end of its connection: no death explains that"
        except AssertionError as e:
            self.wrong = str(e)
        except (LabError, OSError):
            pass  # the host or its bus is dead, as planned; the last write's fate stays "nothing"


class Writer(Client):
    """Number 0 speaks over the system bus, and so goes on with the next agent; the others on the private socket."""

    def __init__(self, host, number, count):
        super().__init__(host)
        self.number, self.count, self.private = number, count, number > 0
        self.writes, self.undecided = [], []

    def act(self, bus):
        self.count += 1
        if self.undecided and self.count % 16 == 0:
            self.ask(bus)
        path = f"/soak/{self.host.name}-{self.number}/{self.count % KEYS_PER_WRITER}"
        write = Write(path, f"{self.host.name}-{self.number}-{self.count}".encode(), self.host)
        self.writes.append(write)
        try:
            # Every third has less patience than an election takes: it hears Unknown or NoQuorum, and its fate is asked for.
            write.revision = bus.set(path, write.value, timeout=5 if self.count % 3 else 0.3, patience=PATIENCE)
            write.ended = time.monotonic()
            write.told = "done"
        except BusError as e:
            write.told = "never" if e.name in NEVER else "unknown" if e.name == "Unknown" else "nothing"
            if write.told == "unknown":
                write.request = e.request
                self.undecided.append(write)
            time.sleep(0.05)  # the agent may be away for a while
            return
        if self.private and self.count % 4 == 0:
            found = bus.get(path)
            assert found and found[:2] == (write.value, write.revision), \
                f"{self.host.name} answered {write.value} at {write.revision} and then reads {found and found[:2]}"


    def ask(self, bus):
        """The cluster remembers the fates of an agent's last 1,024 requests; a long round has more."""
        for write in self.undecided:
            try:
                state, revision = bus.call("Tree.Outcome", write.request)
            except BusError:
                return
            if state in ("applied", "never"):
                write.fate = (state, revision)
        self.undecided = [w for w in self.undecided if w.fate is None]


class Reader(Client):
    """Reads what all writers write. Its connection ends with the agent, so within one nothing may go back."""

    private = True

    def __init__(self, host, hosts):
        super().__init__(host)
        self.dirs = [f"/soak/{h.name}-{n}" for h in hosts for n in range(WRITERS_PER_HOST)]
        self.count, self.last, self.reads = 0, 0, []

    def act(self, bus):
        self.count += 1
        where = self.dirs[self.count % len(self.dirs)]
        linearizable = self.count % 4 == 0
        began = time.monotonic()
        try:
            if linearizable:
                path = f"{where}/{self.count // 4 % KEYS_PER_WRITER}"
                _, at, info = bus.call("Tree.Get", path, 1, {"timeout-usec": ("t", 500_000)}, timeout=PATIENCE)
                revision, found = info["revision"][1], {path: at}
            else:
                entries, _, revision = bus.call("Tree.List", where, 4, "", 0, timeout=PATIENCE)
                found = {f"{where}/{n}": 0 for n in range(KEYS_PER_WRITER)}
                found.update({name: at for name, _, _, at, _ in entries})
        except BusError:
            time.sleep(0.02)
            return
        assert revision >= self.last, f"{self.host.name} read at revision {revision} after it had read at {self.last}"
        self.last = revision
        self.reads.append(Read(self.host, revision, found, began, linearizable))
