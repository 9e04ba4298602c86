# Writes on all hosts while agents and whole hosts are killed, and proof that nothing was lost or done twice.
#
# Every write carries a value that no other write has, so the history tells all. After each round the history since the
# last one is read from every host by a watch, and held against the ledger of what the writers were told:
#
#     told a revision          the history has the value exactly once, at that revision
#     Unknown, then "applied"  the same, at the revision that Outcome names
#     Unknown, then "never"    the history does not have it
#     NoQuorum, Busy           the history does not have it
#     connection lost          the caller was told nothing: at most once
#
# and every host must tell the same history, and read back exactly its end: value, revision, and a version that counts
# the writes. The choices of a run come from its seed; what the machine makes of them does not.
import random
import threading
import time

from . import cluster
from .bus import DELETE, MARK, PUT, Bus, BusError
from .tools import LabError, say, until

WRITERS_PER_HOST = 2
KEYS_PER_WRITER = 4
PAUSE = 0.004  # between writes, so that a round's history stays readable


class Write:
    """One write and what its caller was told of it."""

    def __init__(self, path, value, host):
        self.path, self.value, self.host = path, value, host
        self.told, self.revision, self.request = "nothing", None, None


class Writer(threading.Thread):
    """Writes on one host until told to stop or until its connection ends."""

    def __init__(self, host, number, count):
        super().__init__(daemon=True)
        self.host, self.number, self.count = host, number, count
        self.writes, self.stop, self.hung = [], threading.Event(), False

    def run(self):
        try:
            with Bus(self.host) as bus:
                while not self.stop.is_set():
                    self.write(bus)
                    time.sleep(PAUSE)
        except TimeoutError:
            self.hung = True  # neither an answer nor the end of the connection: no death explains that
        except (LabError, OSError):
            pass  # the host or its bus is dead, as planned; the last write's fate stays "nothing"

    def write(self, bus):
        self.count += 1
        path = f"/soak/{self.host.name}-{self.number}/{self.count % KEYS_PER_WRITER}"
        write = Write(path, f"{self.host.name}-{self.number}-{self.count}".encode(), self.host)
        self.writes.append(write)
        try:
            # Every third has less patience than an election takes: it hears Unknown or NoQuorum, and its fate is asked for.
            write.revision = bus.set(path, write.value, timeout=5 if self.count % 3 else 0.3)
            write.told = "done"
        except BusError as e:
            write.told = {"NoQuorum": "never", "Busy": "never", "Unknown": "unknown"}.get(e.name, "nothing")
            if write.told == "unknown":
                write.request = e.request
            time.sleep(0.05)  # the agent may be away for a while


class Soak:
    def __init__(self, fleet, hosts, seed):
        self.fleet, self.hosts, self.random = fleet, hosts, random.Random(seed)
        self.counts = {}     # (host, writer) -> writes so far
        self.verified = 0    # the history up to this revision was checked
        self.state = {}      # path -> (value, mod_revision, version) at `verified`
        self.sums = {"writes": 0, "done": 0, "unknown": 0, "applied": 0, "never": 0, "nothing": 0, "lost": 0, "twice": 0}
        self.deeds = {}

    # -- one round ------------------------------------------------------------------------------------------------

    def round(self):
        writers = [Writer(h, n, self.counts.get((h.name, n), 0)) for h in self.hosts for n in range(WRITERS_PER_HOST)]
        for writer in writers:
            writer.start()
        time.sleep(self.random.uniform(0.05, 1.0))
        deed = self.nemesis()
        time.sleep(self.random.uniform(0.0, 0.6))
        self.mend()
        for writer in writers:
            writer.stop.set()
        for writer in writers:
            writer.join(60)
            if writer.is_alive() or writer.hung:
                raise LabError(f"a write on {writer.host.name} never ended")
            self.counts[writer.host.name, writer.number] = writer.count
        cluster.wait_formed(self.hosts, timeout=60)
        writes = [write for writer in writers for write in writer.writes]
        self.resolve(writes)
        self.verify(writes)
        return deed, len(writes)

    def nemesis(self):
        """Kills something, at once and without a word."""
        one = self.random.choice(self.hosts)
        deeds = [(8, "agent", one.name, lambda: self.kill_agents([one])),
                 (5, "host", one.name, lambda: self.fleet.crash([one])),
                 (2, "all agents", "", lambda: self.kill_agents(self.hosts)),
                 (2, "all hosts", "", lambda: self.fleet.crash(self.hosts)),
                 (2, "leader's agent", "", lambda: self.kill_agents([cluster.leader(self.hosts)])),
                 (2, "leader's host", "", lambda: self.fleet.crash([cluster.leader(self.hosts)]))]
        if self.fleet.has_disks:
            deeds += [(2, "power", one.name, lambda: self.fleet.powercut([one])),
                      (2, "all power", "", lambda: self.fleet.powercut(self.hosts))]
        _, kind, detail, do = self.random.choices(deeds, [d[0] for d in deeds])[0]
        do()
        self.deeds[kind] = self.deeds.get(kind, 0) + 1
        return f"{kind} {detail}".strip()

    def kill_agents(self, hosts):
        self.fleet.each(lambda h: h.kill_unit("treatyd.service"), hosts)

    def mend(self):
        self.fleet.boot([h for h in self.hosts if h.state == "off"])
        for host in self.hosts:
            # systemd restarts a killed agent by itself; the soak only kills it faster than any limit on restarts.
            host.run("systemctl", "reset-failed", "treatyd.service", "treaty-units.service", check=False)
            host.run("systemctl", "start", "treatyd.service", "treaty-units.service")

    def resolve(self, writes):
        """Asks for the fate of every Unknown, on whatever host: the answer must be definite and the same."""
        for write in writes:
            if write.told != "unknown":
                continue
            answers = set()
            for host in self.hosts:
                def definite():
                    with Bus(host) as bus:
                        state, revision = bus.call("Tree.Outcome", write.request)
                    return (state, revision) if state in ("applied", "never") else None
                answers.add(until(definite, 20, f"the outcome of {write.request} on {host.name}", step=0.1))
            if len(answers) != 1:
                raise LabError(f"hosts disagree about request {write.request}: {answers}")
            write.told, write.revision = answers.pop()
            self.sums["unknown"] += 1

    # -- the proof ------------------------------------------------------------------------------------------------

    def verify(self, writes):
        with Bus(self.hosts[0]) as bus:
            end = bus.set("/soak/end", f"{self.verified}", timeout=10)
        histories = [self.history(host, end) for host in self.hosts]
        for host, history in zip(self.hosts, histories):
            if history != histories[0]:
                raise LabError(f"{host.name} and {self.hosts[0].name} tell different histories: "
                               f"{first_difference(history, histories[0])}")
        seen = {}
        for path, value, revision in histories[0]:
            seen.setdefault(value, []).append((path, revision))
        for write in writes:
            self.judge(write, seen.pop(write.value, []))
        strangers = [value for value, at in seen.items() if at[0][0] != "/soak/end"]
        if strangers:
            raise LabError(f"the history holds what nobody wrote in this round: {strangers[:3]}")
        self.replay(histories[0])
        self.read_back(end)
        self.verified = end

    def history(self, host, end):
        """Every change below /soak since the last verified revision, as one host tells it."""
        changes = []
        with Bus(host) as bus:
            bus.call("Tree.Get", "/soak/end", 0, {"min-revision": ("t", end)})
            with bus.watch("/soak", since=self.verified + 1) as watch:
                while True:
                    record = watch.next(10)
                    if record is None or record.kind not in (PUT, DELETE, MARK):
                        raise LabError(f"{host.name}: the watch from {self.verified + 1} ended early with {record}")
                    if record.kind == MARK:
                        continue
                    if record.kind == DELETE:
                        raise LabError(f"{host.name}: {record.path} was deleted by nobody")
                    changes.append((record.path, record.value, record.revision))
                    if record.revision >= end:
                        return changes

    def judge(self, write, at):
        self.sums["writes"] += 1
        self.sums[{"done": "done", "applied": "applied", "never": "never", "nothing": "nothing"}[write.told]] += 1
        if len(at) > 1:
            self.sums["twice"] += 1
            say(f"APPLIED TWICE: {write.value} at {at}")
        wanted = [(write.path, write.revision)]
        if write.told in ("done", "applied") and at != wanted:
            self.sums["lost"] += 1
            say(f"LOST: {write.value} was answered with revision {write.revision}, the history has it at {at}")
        if write.told == "never" and at:
            self.sums["twice"] += 1
            say(f"APPLIED AFTER NEVER: {write.value} at {at}")

    def replay(self, history):
        for path, value, revision in history:
            _, _, version = self.state.get(path, (None, None, 0))
            self.state[path] = (value, revision, version + 1)

    def read_back(self, end):
        """What every host reads is the end of the history."""
        for host in self.hosts:
            with Bus(host) as bus:
                found = {path: (value, modified, version)
                         for path, (value, _, modified, version) in bus.list("/soak").items()}
            if found != self.state:
                raise LabError(f"{host.name} reads at revision {end} what the history does not say: "
                               f"{first_difference(sorted(found.items()), sorted(self.state.items()))}")


def first_difference(one, other):
    for a, b in zip(one, other):
        if a != b:
            return f"{a} against {b}"
    return f"{len(one)} against {len(other)} entries"


def run_rounds(fleet, hosts, rounds, seed, told=say):
    """Runs the rounds on a formed cluster and returns the Soak with its sums; raises LabError where proof fails."""
    soak = Soak(fleet, hosts, seed)
    with Bus(hosts[0]) as bus:
        soak.verified = bus.set("/soak/end", "begin")
        bus.call("Tree.Delete", "/soak", 1, {})
        soak.verified = bus.property("Tree", "Revision")
    for number in range(1, rounds + 1):
        began = time.monotonic()
        deed, writes = soak.round()
        told(f"round {number}/{rounds}: killed {deed}, {writes} writes, {soak.sums['lost']} lost, "
             f"{soak.sums['twice']} twice, {time.monotonic() - began:.1f} s")
    return soak


def soak(fleet, rounds, seed):
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    say(f"soak with --seed={seed}")
    with fleet.lock():
        try:
            hosts = fleet.up(3, disk="256M")
            cluster.form(hosts)
            done = run_rounds(fleet, hosts, rounds, seed)
        except LabError:
            say(f"the lab '{fleet.name}' is left as it is: './lab --name={fleet.name} log h1 -u treatyd' may tell why")
            raise
        fleet.down()
    sums = done.sums
    print("killed: " + ", ".join(f"{kind} {n}x" for kind, n in sorted(done.deeds.items())))
    print(f"{sums['writes']} writes: {sums['done']} answered, {sums['unknown']} unknown at first ({sums['applied']} of them "
          f"applied), {sums['never']} never offered or decided never, {sums['nothing']} cut off without an answer")
    print(f"{rounds} rounds, {sums['lost']} lost, {sums['twice']} applied twice")
    return 1 if sums["lost"] or sums["twice"] else 0
