# What more voters, more observers, larger trees and a thousand hosts cost.
#
# Voters and observers are real hosts: one cluster that grows from row to row, so each row stands beside the one before.
# A thousand hosts do not fit on a machine as hosts; their halls do, in one process (tests/bench/crowd.c).
import json
import os
import shutil

from . import bench, build, cluster, compare
from .tools import run, say

VOTERS = (1, 3, 7, 9)  # hosts with Voters=7, which make 1, 3, 5 and 7 voters
OBSERVERS = (3, 13, 53)  # hosts with Voters=3
TREES = (1000, 10_000, 100_000, 1_000_000)
COLD_SECONDS = {100_000: 0.3, 1_000_000: 1}  # wanted of a cold start
BATCH = 5  # hosts that boot at the same time
CROWD = 1000
CROWD_DIRECTORY = "/dev/shm/treaty-crowd"  # what the disk makes of a thousand hosts' syncs is not asked here
CROWD_MSEC = 100


class Grown(compare.Treaty):
    """One cluster of hosts that becomes larger."""

    def __init__(self, fleet, voters):
        super().__init__(fleet)
        self.voters = voters

    def __enter__(self):
        self.hosts = self.fleet.up(1)
        self.settle(self.hosts)
        cluster.form(self.hosts)
        self.look()
        return self

    def settle(self, hosts):
        for host in hosts:
            host.write("/etc/treaty/treaty.conf.d/scaling.conf", f"[Treaty]\nVoters={self.voters}\n")
            host.run("systemctl", "restart", "treatyd.service")

    def grow(self, n):
        while len(self.hosts) < n:
            count = min(BATCH, n - len(self.hosts))
            new = [self.fleet.add(len(self.hosts) + 1 + i) for i in range(count)]
            self.fleet.boot(new)
            self.settle(new)
            self.hosts += new
            ticket = cluster.token(self.hosts[0], f"--uses={count}")
            for host in new:
                cluster.join(host, ticket)
        cluster.wait_formed(self.hosts, 120, self.wanted)
        self.look()

    @property
    def wanted(self):
        return min(self.voters, cluster.voters_possible(len(self.hosts)))

    def observer(self):
        """The agent of one, or of any other follower when there is none."""
        roles = {m["name"]: m["role"] for m in cluster.members(self.leader_host)}
        others = [h for h in self.hosts if h.name != self.leader_host.name] or self.hosts
        others.sort(key=lambda h: roles.get(h.name) == "voter")
        return self.agents[others[0].name]


# ---- hosts ----

HOST_ROWS = (  # (key, head, verb, where, clients)
    ("write-1", "writes/s, 1 at the leader", "set", "leader", 1), ("write-64", "64 at the leader", "set", "leader", 64),
    ("write-64-other", "64 at a follower", "set", "other", 64),
    ("linearizable-64", "linearizable reads/s, 64", "linearizable", "other", 64),
    ("local-64", "local reads/s, 64", "get", "other", 64))


def measure(grown, rounds, seconds):
    medians = compare.Medians()
    for _ in range(rounds):
        for key, _, verb, where, clients in HOST_ROWS:
            member = grown.leader() if where == "leader" else grown.observer()
            medians.add(key, grown, compare.ask(grown, member, verb, clients, seconds))
    return medians


def host_row(grown, rounds, seconds):
    m, name = measure(grown, rounds, seconds), grown.name
    cells = [str(grown.wanted), str(len(grown.hosts) - grown.wanted)]
    cells += [compare.number(m.of(key, name)) for key, *_ in HOST_ROWS]
    cells += [compare.number(m.of("write-1", name, "p50_usec") / 1e3), compare.number(m.of("write-64", name, "p99_usec") / 1e3),
              compare.number(m.of("write-64", name, "cpu"))]
    return "| " + " | ".join(cells) + " |"


def hosts(fleet, voters, sizes, rounds, seconds):
    with Grown(fleet, voters) as grown:
        for n in sizes:
            grown.grow(n)
            compare.ask(grown, grown.leader(), "fill", 64)
            yield host_row(grown, rounds, seconds)
            say(f"{n} hosts, {grown.wanted} of them vote")


def host_table(fleet, rounds, seconds):
    yield ("| voters | observers | " + " | ".join(head for _, head, *_ in HOST_ROWS) +
           " | p50 ms, 1 | p99 ms, 64 | CPU µs per write, 64, all agents |")
    yield "|" + "---|" * (5 + len(HOST_ROWS))
    yield from hosts(fleet, 7, VOTERS, rounds, seconds)
    yield from hosts(fleet, 3, OBSERVERS, rounds, seconds)


# ---- trees ----

def tree_table(fleet, rounds, sizes=TREES):
    yield "| entries of 256 bytes | filled, entries/s | RSS of the largest agent, MiB | cold start, clean, s | after kill -9, s | wanted, s | tree.db, MiB |"
    yield "|" + "---|" * 7
    with Grown(fleet, 3) as grown:
        grown.grow(3)
        for n in sizes:
            medians, keys = compare.Medians(), bench.KEYS
            bench.KEYS = n
            try:
                filled = compare.ask(grown, grown.leader(), "fill", 64)
            finally:
                bench.KEYS = keys
            compare.memory([grown], "memory", medians)
            bench.settle(grown.members)
            compare.cold_start(grown, medians, rounds)
            cells = [f"{n:,}", compare.number(filled["per_second"]), compare.number(medians.of("memory", "treaty", "mib")),
                     compare.number(medians.of("start-clean", "treaty", "seconds")),
                     compare.number(medians.of("start-killed", "treaty", "seconds")),
                     f"≤ {COLD_SECONDS[n]}" if n in COLD_SECONDS else "", compare.number(tree_mib(grown.hosts[0]))]
            say(f"{n} entries")
            yield "| " + " | ".join(cells) + " |"


def tree_mib(host):
    state = host.path("/var/lib/treaty")
    return max(os.path.getsize(f"{state}/{name}") for name in os.listdir(state) if name.endswith(".db")) / 2**20


# ---- a thousand hosts ----

def crowd(n=CROWD, seconds=20):
    run("ninja", "-C", build.BUILD, "tests/bench/crowd", timeout=600)
    shutil.rmtree(CROWD_DIRECTORY, ignore_errors=True)
    try:
        done = run(f"{build.BUILD}/tests/bench/crowd", f"--hosts={n}", f"--seconds={seconds}", CROWD_DIRECTORY, timeout=3600)
    finally:
        shutil.rmtree(CROWD_DIRECTORY, ignore_errors=True)
    return json.loads(done.stdout)


def crowd_lines(seen):
    yield f"| {seen['hosts']:,} halls in one process, files in memory, one thread, {seen['changes']} changes | p50 | p99 | at most |"
    yield "|---|---|---|---|"
    for what, key in (("first to last apply of a change, ms", "spread"), ("… in CPU time of the thread, ms", "spread_cpu"),
                      ("asked to last apply, ms", "whole")):
        yield f"| {what} | " + " | ".join(compare.number(seen[f"{key}_{q}_usec"] / 1e3) for q in ("p50", "p99", "max")) + " |"
    yield ""
    p99 = seen["spread_p99_usec"] / 1e3
    yield f"- first to last apply of a change, {seen['hosts']:,} halls: p99 {compare.number(p99)} ms, wanted ≤ {CROWD_MSEC} ms: " \
          f"{'yes' if p99 <= CROWD_MSEC else 'no'}"
    yield (f"- CPU per change {compare.number(seen['cpu_usec_per_change'] / seen['hosts'])} µs a host; idle, all of them together "
           f"{compare.number(seen['idle_cpu_percent'])} % of one core; {compare.number(seen['mib_per_host'])} MiB each; to form "
           f"this cluster took {compare.number(seen['forming_cpu_seconds'])} s of CPU time")


def scaling(fleet, rounds=3, seconds=2.0, write=False):
    build.build()
    lines = []

    def told(some):
        for line in some:
            print(line, flush=True)
            lines.append(line)
        lines.append("")

    told(crowd_lines(crowd()))
    with fleet.lock():
        told(tree_table(fleet, rounds))
        told(host_table(fleet, rounds, seconds))
    if write:
        bench.write_document(bench.machine() + [""] + lines, bench.SCALING)
