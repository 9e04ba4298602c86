# Proof that nothing was lost, done twice, or seen out of order.
#
# The history since the last check is read from every host by a watch, and held against what the clients were told:
#
#     told a revision          the history has the value exactly once, at that revision
#     Unknown, then "applied"  the same, at the revision that Outcome names
#     Unknown, then "never"    the history does not have it
#     NoQuorum, Busy, ...      the history does not have it
#     connection lost          the caller was told nothing: at most once
#
# Every host must tell the same history, and read back exactly its end: value, revision, and a version that counts the
# writes. A write that began after another was answered has the higher revision (all clients share this machine's clock).
# A read at revision R found what the history says of R; a linearizable one is not older than any write answered or any
# linearizable read done before it began. Every host is asked to scrub its tree, and has to find it as it was written; who
# does not, fetches another by itself, and has to then. And the trees of all hosts at one applied index are the same, byte
# for byte, with the same digest: looked up in their files, not asked.
import collections
import ctypes
import glob
import hashlib
import json
import os
import sqlite3

from .bus import DELETE, MARK, PUT, Bus, BusError
from .tools import LabError, until

CLONE_NEWNS = 0x00020000  # sched.h


class Proof:
    def __init__(self, hosts):
        self.hosts = hosts
        self.state = {}  # path -> (value, mod_revision, version) at `verified`
        self.sums = collections.Counter(lost=0, twice=0, divergent=0)
        with Bus(hosts[0]) as bus:
            bus.set("/soak/end", "begin")
            bus.call("Tree.Delete", "/soak", 1, {})
            self.verified = bus.property("Tree", "Revision")  # the history up to this revision was checked

    def check(self, writes, reads, strangers=()):
        """All of it, when all clients have stopped; raises LabError. `strangers`: hosts that are other members since."""
        self.resolve(writes, strangers)
        with Bus(self.hosts[0]) as bus:
            end = bus.set("/soak/end", f"{self.verified}", timeout=10)
        histories = [self.history(host, end) for host in self.hosts]
        for host, history in zip(self.hosts, histories):
            if history != histories[0]:
                raise LabError(f"{host.name} and {self.hosts[0].name} tell different histories: "
                               f"{first_difference(history, histories[0])}")
        self.judge_all(writes, histories[0])
        self.judge_order(writes, reads)
        self.judge_reads(reads, histories[0])
        self.replay(histories[0])
        self.read_back(end)
        self.compare_trees()
        self.verified = end

    # -- fates ----------------------------------------------------------------------------------------------------

    def resolve(self, writes, strangers):
        """Asks for the fate of every Unknown, on all hosts: the answer must be definite and the same, unless more than 1,024
        requests came behind it."""
        for write in writes:
            if write.told != "unknown":
                continue
            self.sums["unknown"] += 1
            if write.host.name in strangers:
                write.told = "nothing"  # its member is gone, and what was kept of its requests with it
                continue
            answers = {until(lambda: self.outcome(host, write), 20, step=0.1,
                             what=f"the outcome of {write.request} on {host.name}") for host in self.hosts}
            answers = {a for a in answers if a[0] != "too-old"} | ({write.fate} if write.fate else set())
            if len(answers) > 1:
                raise LabError(f"hosts disagree about request {write.request}: {answers}")
            write.told, write.revision = answers.pop() if answers else ("nothing", None)

    def outcome(self, host, write):
        with Bus(host) as bus:
            state, revision = bus.call("Tree.Outcome", write.request)
        return (state, revision) if state in ("applied", "never", "too-old") else None

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

    def judge_all(self, writes, history):
        seen = {}
        for path, value, revision in history:
            seen.setdefault(value, []).append((path, revision))
        wrong = [told for write in writes for told in self.judge(write, seen.pop(write.value, []))]
        if wrong:
            raise LabError(f"{len(wrong)} writes are not as their callers were told: " + "; ".join(wrong[:5]))
        strangers = [value for value, at in seen.items() if at[0][0] != "/soak/end"]
        if strangers:
            raise LabError(f"the history holds what nobody wrote in this round: {strangers[:3]}")

    def judge(self, write, at):
        self.sums["writes"] += 1
        self.sums[write.told] += 1
        wrong = []
        if len(at) > 1:
            self.sums["twice"] += 1
            wrong.append(f"APPLIED TWICE: {write.value} at {at}")
        if write.told in ("done", "applied") and at != [(write.path, write.revision)]:
            self.sums["lost"] += 1
            wrong.append(f"LOST: {write.value} was answered with revision {write.revision}, the history has it at {at}")
        if write.told == "never" and at:
            self.sums["twice"] += 1
            wrong.append(f"APPLIED AFTER NEVER: {write.value} at {at}")
        return wrong

    # -- order ----------------------------------------------------------------------------------------------------

    def judge_order(self, writes, reads):
        """What began after something was answered is not older than it."""
        begun = [(w.began, w.revision, 1, f"write {w.value} on {w.host.name}") for w in writes if w.revision]
        begun += [(r.began, r.revision, 0, f"linearizable read on {r.host.name}") for r in reads if r.linearizable]
        ended = [(w.ended, w.revision) for w in writes if w.ended and w.revision]
        ended += [(r.ended, r.revision) for r in reads if r.linearizable]
        ended.sort()
        newest, at = 0, 0
        for began, revision, above, what in sorted(begun):
            while at < len(ended) and ended[at][0] < began:
                newest, at = max(newest, ended[at][1]), at + 1
            if revision < newest + above:
                raise LabError(f"the {what} is of revision {revision}, although {newest} was answered before it began")

    def judge_reads(self, reads, history):
        """Each read saw the state of its revision: no more, no less, nothing in part."""
        state, at = {path: modified for path, (_, modified, _) in self.state.items()}, 0
        for read in sorted(reads, key=lambda r: r.revision):
            self.sums["reads"] += 1
            if read.revision < self.verified:
                self.sums["old reads"] += 1  # by a host that was behind when the round began
                continue
            while at < len(history) and history[at][2] <= read.revision:
                state[history[at][0]] = history[at][2]
                at += 1
            wanted = {path: state.get(path, 0) for path in read.found}
            if read.found != wanted:
                raise LabError(f"{read.host.name} read {read.found} at revision {read.revision}, where the history has {wanted}")

    # -- the end --------------------------------------------------------------------------------------------------

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

    def compare_trees(self, timeout=15):
        """Every host's tree file at one applied index: sound, equal contents, equal digests."""
        for host in self.hosts:
            if not self.is_sound(host):
                self.sums["rot found by a scrub"] += 1
                until(lambda: self.is_sound(host), 30, f"{host.name} to have a tree without a fault", step=0.2)
        trees = self.trees_together(timeout)
        self.sums["digests"] += 1
        if len({(t["contents"], t["digest"]) for t in trees.values()}) != 1:
            self.sums["divergent"] += 1
            raise LabError(f"DIVERGENT: at one applied index the trees differ: {trees}")

    def is_sound(self, host):
        """It reads all of its tree; False: there is rot, and it is being fetched again."""
        try:
            with Bus(host) as bus:
                bus.call("Cluster.Scrub", 0, timeout=30)
            return True
        except BusError as e:
            if e.name == "NoTree":
                return False
            raise LabError(f"{host.name} cannot scrub its tree: {e}")

    def trees_together(self, timeout):
        trees = {}

        def together():
            for host in self.hosts:
                trees[host.name] = tree_of(host)
            return None not in trees.values() and len({t["applied"] for t in trees.values()}) == 1

        until(together, timeout, lambda: f"all hosts to have applied the same: {trees}", step=0.15)
        return trees


# All that apply may read, with keys and values in full. History is left out: hosts prune at their own pace.
CONTENTS = ("SELECT applied, applied_term, revision, floor, cluster_usec, n_entries, conf, conf_index, cluster, epoch FROM meta",
            "SELECT r.id, r.head, r.value FROM keys k JOIN newest USING(n) JOIN rows r USING(id) ORDER BY k.key",
            "SELECT kind, key, body FROM records ORDER BY kind, key")


def tree_of(host):
    """What the file of a running agent's tree holds: applied index, digest, a hash of all contents. None: ask again.

    Read in place, as an operator's sqlite3 would: a copy would hold the WAL as a start finds it, not as the agent does. And
    from inside, for SQLite resolves paths by name, and /proc/PID/root leads nowhere so."""
    return inside(host, look_at_tree)


def inside(host, look):
    """What look() returns in the mount namespace of a host; None when it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            space = os.open(f"/proc/{host.init}/ns/mnt", os.O_RDONLY)
            if ctypes.CDLL(None, use_errno=True).setns(space, CLONE_NEWNS) == 0:
                os.write(writer, json.dumps(look()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as f:
        told = f.read()
    os.waitpid(child, 0)
    return json.loads(told) if told else None


def look_at_tree():
    found = [p for p in glob.glob("/var/lib/treaty/tree-*.db") if os.path.exists(f"{p}-wal")]
    if len(found) != 1:
        return None  # in the middle of a switch
    try:
        db = sqlite3.connect(f"file:{found[0]}?mode=ro", uri=True, isolation_level=None)
        try:
            return contents(db)
        finally:
            db.close()
    except sqlite3.Error:
        return None  # switched meanwhile; if it stays so, the caller's patience ends


def contents(db):
    sums = hashlib.sha256()
    db.execute("BEGIN")
    for query in CONTENTS:
        for row in db.execute(query):
            sums.update(repr(row).encode())
    applied, digest = db.execute("SELECT applied, digest FROM meta").fetchone()
    return {"applied": applied, "digest": digest.hex(), "contents": sums.hexdigest()[:16]}


def first_difference(one, other):
    for a, b in zip(one, other):
        if a != b:
            return f"{a} against {b}"
    return f"{len(one)} against {len(other)} entries"
