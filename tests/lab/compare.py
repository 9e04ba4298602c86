# treaty beside etcd and ZooKeeper: the same loop asks all three, in turn, on the same machine in the same minutes.
#
# All three clusters stand during the whole run, and a row of the table is measured in several rounds, one system after the
# other in each: what else the machine does then touches all of them alike. Ratios of medians are what counts.
import contextlib
import json
import os
import signal
import statistics
import subprocess
import time

from . import bench, build, cluster, rivals
from .tools import LabError, run, say, until

BUSES = ("dbus-daemon", "dbus-broker")
ROWS = [  # (key, what, verb, where, clients)
    *((f"write-{where}-{n}", "write", "set", where, n) for where in ("leader", "follower") for n in (1, 16, 64, 256)),
    *((f"linearizable-{n}", "linearizable read", "linearizable", "follower", n) for n in (1, 64)),
    *((f"local-{n}", "local read", "get", "follower", n) for n in (1, 64)),
]

BUS_ROWS = [(f"{bus}-{n}", bus, n) for bus in BUSES for n in (1, 64)]


class Treaty:
    """Three agents on real hosts; programs reach them over the private socket, or over a bus: dbus-daemon on all hosts
    but the last, which has dbus-broker."""
    name, program = "treaty", "treaty-load"

    def __init__(self, fleet):
        self.fleet = fleet

    def __enter__(self):
        self.hosts = self.fleet.up(3, more=("dbus-broker",))
        last = self.hosts[-1]
        last.run("systemctl", "enable", "dbus-broker.service")
        # The bus cannot be changed under running services; the host is started anew for it.
        self.fleet.crash([last])
        self.fleet.boot([last])
        cluster.form(self.hosts)
        self.look()
        return self

    def __exit__(self, *_):
        self.fleet.down()

    def look(self):
        self.leader_host = cluster.leader(self.hosts)
        self.agents = {h.name: bench.Agent(h) for h in self.hosts}

    @property
    def members(self):
        return list(self.agents.values())

    def leader(self):
        self.look()
        return self.agents[self.leader_host.name]

    def address(self, member):
        return member.socket

    any_address = address

    def bus_address(self, bus):
        """A follower's where the choice is free; a read of what the agent knows costs the same everywhere."""
        return f"bus:/proc/{self.bus_agent(bus).pid}/root/run/dbus/system_bus_socket"

    def bus_agent(self, bus):
        self.look()
        hosts = self.hosts[-1:] if bus == "dbus-broker" else [h for h in self.hosts[:-1] if h.name != self.leader_host.name]
        return self.agents[hosts[0].name]

    def kill(self, member):
        os.kill(member.pid, signal.SIGKILL)

    def revive(self, member):
        until(lambda: cluster.agent_answers(member.host), 30, f"the agent on {member.host.name}")
        cluster.wait_formed(self.hosts)
        self.look()


class Rival:
    """What differs from treaty in how one of the others is handled."""

    def __init__(self, of, directory):
        self.of, self.name, self.program = of(directory), of.name, of.load

    def __enter__(self):
        self.of.__enter__()
        return self

    def __exit__(self, *_):
        self.of.__exit__()

    @property
    def members(self):
        return self.of.members

    def leader(self):
        return until(self.of.leader, 30, f"a leader of {self.name}")

    def address(self, member):
        return member.address

    def any_address(self, member):
        """ZooKeeper's servers hang up when they lose their leader, and its client goes to another then."""
        others = [m.address for m in self.members if m is not member]
        return ",".join([member.address] + others) if self.name == "zookeeper" else member.address

    def kill(self, member):
        member.stop()

    def revive(self, member):
        member.start()
        time.sleep(3)


def ask(system, addresses, verb, clients=1, seconds=2.0, warm_up=0.3, options=()):
    """What the load saw, with the CPU time and the bytes to the disk that all members spent per answer. `addresses`: a
    member, or as the load takes them."""
    members = system.members
    addresses = addresses if isinstance(addresses, list) else [system.address(addresses)]
    before = [(m.cpu_usec, m.written) for m in members]
    done = run(f"{build.BUILD}/tests/bench/{system.program}", f"--clients={clients}", f"--seconds={seconds}",
               f"--warm-up={warm_up}", f"--keys={bench.KEYS}", f"--size={bench.VALUE}", *options, verb,
               *addresses, timeout=seconds + warm_up + 120 + (bench.KEYS / 500 if verb == "fill" else 0))
    seen = json.loads(done.stdout)
    answers = max(1, seen["all_answers"])
    seen["cpu"] = sum(m.cpu_usec - cpu for m, (cpu, _) in zip(members, before)) / answers
    seen["written"] = sum(m.written - written for m, (_, written) in zip(members, before)) / answers
    return seen


def ask_again(system, member, *what):
    """A peer that loses an answer (ZooKeeper's sync does, rarely) is asked once more; treaty has to answer at once."""
    try:
        return ask(system, member, *what)
    except LabError as error:
        if system.name == "treaty":
            raise
        say(f"{system.name}: {error}; once more")
        return ask(system, member, *what)


def member_of(system, where):
    leader = system.leader()
    if where == "leader":
        return leader
    return next(m for m in system.members if m.pid != leader.pid)


class Medians:
    """Per (row, system) what each round saw."""

    def __init__(self):
        self.rounds = {}

    def add(self, key, system, seen):
        self.rounds.setdefault((key, system.name), []).append(seen)

    def of(self, key, name, field="per_second"):
        rounds = self.rounds.get((key, name))
        return statistics.median(r[field] for r in rounds) if rounds else None

    def spread(self, key, name, field="per_second"):
        values = [r[field] for r in self.rounds.get((key, name), ())]
        return f"{min(values):.0f}–{max(values):.0f}" if len(values) > 1 else ""


# ---- what is measured ----

def warm(systems, seconds):
    """A virtual machine compiles while it runs; nobody is measured cold."""
    for system in systems:
        leader = system.leader()
        ask(system, leader, "fill", 64)
        for verb in ("set", "get", "linearizable"):
            ask(system, leader, verb, 64, seconds)


def throughput(systems, medians, rounds, seconds):
    for n in range(rounds):
        say(f"round {n + 1} of {rounds}: {len(ROWS)} rows, {len(systems)} systems")
        for key, _, verb, where, clients in ROWS:
            for system in systems:
                with forgiven(system):
                    medians.add(key, system, ask_again(system, member_of(system, where), verb, clients, seconds))
        for key, bus, clients in BUS_ROWS:
            treaty = systems[0]
            medians.add(key, treaty, ask(treaty, [treaty.bus_address(bus)], "get", clients, seconds))


@contextlib.contextmanager
def forgiven(system):
    """A peer that cannot do what is asked of it has no figure; treaty has to."""
    try:
        yield
    except LabError as e:
        if system.name == "treaty":
            raise
        say(f"{system.name} did not do it: {e}")


class Floor:
    """What little can be done better here: a service of sd-bus that does nothing, on a socket of its own and on the hosts' buses, and two
    processes that wake each other."""
    name, program, members = "floor", "treaty-load", ()
    binary = f"{build.BUILD}/tests/bench/floor"
    service = "org.treaty1.Floor"

    def __init__(self, treaty):
        self.treaty, self.processes = treaty, []

    def __enter__(self):
        socket = f"{self.treaty.fleet.dir}/floor"
        self.start([self.binary, "private", socket])
        self.addresses = {"private": socket}
        for bus in BUSES:
            agent = self.treaty.bus_agent(bus)
            agent.host.write("/etc/dbus-1/system.d/floor.conf", f"""<busconfig><policy user="root">
                <allow own="{self.service}"/><allow send_destination="{self.service}"/></policy></busconfig>""")
            agent.host.run("systemctl", "reload", "dbus.service" if bus == "dbus-daemon" else "dbus-broker.service")
            socket = f"/proc/{agent.pid}/root/run/dbus/system_bus_socket"
            self.start([self.binary, "bus", socket, self.service])
            self.addresses[bus] = f"bus={self.service}:{socket}"
        time.sleep(0.5)
        for process in self.processes:
            if process.poll() is not None:
                raise LabError(f"'{' '.join(process.args)}' ended with {process.returncode}")
        return self

    def start(self, argv):
        self.processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def measure(self, medians, seconds):
        for over, address in self.addresses.items():
            for clients in (1, 64):
                medians.add(f"{over}-{clients}", self, ask(self, [address], "get", clients, seconds))
        seen = json.loads(run(self.binary, "wake", seconds).stdout)
        medians.add("wake", self, {"usec": seen["p50_usec"]})


def watchers(systems, medians, rounds, seconds, count):
    for _ in range(rounds):
        for system in systems:
            with forgiven(system):
                medians.add(f"watch-{count}", system, ask(system, member_of(system, "follower"), "watch", 1, seconds,
                                                          options=(f"--watchers={count}",)))


def registration(systems, medians, rounds, seconds):
    """A service is registered at one host, and seen at another by a program that watches."""
    for _ in range(rounds):
        for system in systems:
            ends = [system.address(m) for m in system.members[:2]]
            with forgiven(system):
                medians.add("register", system, ask(system, ends, "register", 1, seconds))


def failover(systems, medians, rounds):
    """A lone writer at a follower, who asks anew after 100 ms; the leader is killed; the longest time between two answers."""
    import threading
    for _ in range(rounds):
        for system in systems:
            leader, writer = system.leader(), member_of(system, "follower")
            timer = threading.Timer(1.5, system.kill, (leader,))
            timer.start()
            with forgiven(system):
                done = run(f"{build.BUILD}/tests/bench/{system.program}", "--clients=1", "--seconds=8", "--warm-up=0.5",
                           "--patience=100", "--keys=10000", "set", system.any_address(writer), timeout=60)
                medians.add("failover", system, {"gap": json.loads(done.stdout)["gap_usec"] / 1e6})
            timer.join()
            system.revive(leader)


def memory(systems, key, medians):
    for system in systems:
        medians.add(key, system, {"mib": max(m.memory_mib for m in system.members)})


CHECK_SECONDS = 65  # a minute after the last change one more entry compares the trees (agent/check.c): its end is idleness


def idleness(systems, medians, seconds):
    if seconds > CHECK_SECONDS / 4:
        time.sleep(CHECK_SECONDS)
    for system in systems:
        bench.settle(system.members)
    before = {s.name: [(m.cpu_usec, m.written) for m in s.members] for s in systems}
    time.sleep(seconds)
    for system in systems:
        spent = [((m.cpu_usec - cpu) / seconds / 1e4, (m.written - written) / seconds * 60 / 1024)
                 for m, (cpu, written) in zip(system.members, before[system.name])]
        medians.add("idle", system, {"cpu": max(c for c, _ in spent), "kib": max(k for _, k in spent)})


def cold_start(treaty, medians, rounds):
    """From `systemctl start` to READY=1, when local reads work; after a clean stop and after kill -9."""
    for _ in range(rounds):
        host = next(h for h in treaty.hosts if h is not treaty.leader_host)
        for key, stop in (("start-clean", ["systemctl", "stop", "treatyd.service"]),
                          ("start-killed", ["systemctl", "kill", "-s", "KILL", "treatyd.service"])):
            if key == "start-killed":
                host.run("mkdir", "-p", "/run/systemd/system/treatyd.service.d")
                host.write("/run/systemd/system/treatyd.service.d/bench.conf", "[Service]\nRestart=no\n")
                host.run("systemctl", "daemon-reload")
            host.run(*stop)
            until(lambda: host.run("systemctl", "is-active", "treatyd.service", check=False).stdout.strip() != "active",
                  10, "the agent to be gone")
            host.run("systemctl", "reset-failed", "treatyd.service", check=False)
            began = time.monotonic()
            host.run("systemctl", "start", "treatyd.service")
            medians.add(key, treaty, {"seconds": time.monotonic() - began})
            host.run("rm", "-f", "/run/systemd/system/treatyd.service.d/bench.conf")
        host.run("systemctl", "daemon-reload")
        cluster.wait_formed(treaty.hosts)
        treaty.look()


# ---- the targets ----

def ratio(a, b):
    return a / b if a is not None and b else None


def better(medians, key, field="per_second", most=True):
    values = [v for v in (medians.of(key, n, field) for n in ("etcd", "zookeeper")) if v is not None]
    return (max if most else min)(values) if values else None


def targets(m):
    """(what, measured, target, met) of DESIGN's table; None where it was not measured."""
    lines = []

    def at_least(what, value, goal, unit="x"):
        lines.append((what, value, f"≥ {goal}{unit}", None if value is None else value >= goal, unit))

    def at_most(what, value, goal, unit):
        lines.append((what, value, f"≤ {goal} {unit}", None if value is None else value <= goal, " " + unit))

    for n, goal in ((1, 1.5), (16, 3), (64, 3), (256, 2.5)):
        for where in ("leader", "follower"):
            key = f"write-{where}-{n}"
            at_least(f"writes, {n} clients at the {where}, over the better of the two",
                     ratio(m.of(key, "treaty"), better(m, key)), goal)
    at_most("server CPU per write, 64 clients at the follower, all agents", m.of("write-follower-64", "treaty", "cpu"),
            60, "µs")
    p99 = better(m, "write-follower-256", "p99_usec", most=False)
    at_most("p99 of a write, 256 clients, part of the better", ratio(m.of("write-follower-256", "treaty", "p99_usec"),
                                                                     p99), 0.33, "x")
    for n, goal in ((1, 2.5), (64, 5)):
        at_least(f"local reads, {n} clients, private socket, over the better",
                 ratio(m.of(f"local-{n}", "treaty"), better(m, f"local-{n}")), goal)
    for bus in BUSES:
        at_least(f"local reads, 1 client, {bus}, over the better", ratio(m.of(f"{bus}-1", "treaty"), better(m, "local-1")), 1.5)
    at_least("linearizable reads, 64 clients, over etcd",
             ratio(m.of("linearizable-64", "treaty"), m.of("linearizable-64", "etcd")), 4)
    at_most("write to the last of 100 watchers, part of etcd's",
            ratio(m.of("watch-100", "treaty", "p50_usec"), m.of("watch-100", "etcd", "p50_usec")), 0.33, "x")
    at_most("RSS, empty", m.of("memory-empty", "treaty", "mib"), 10, "MiB")
    at_most("RSS, 100,000 entries", m.of("memory-full", "treaty", "mib"), 25, "MiB")
    at_most("idle CPU of the busiest agent", m.of("idle", "treaty", "cpu"), 0.2, "%")
    at_most("idle writes to the disk", m.of("idle", "treaty", "kib"), 0, "KiB/min")
    at_most("leader killed to the next answer", m.of("failover", "treaty", "gap"), 0.3, "s")
    at_most("cold start with 100,000 entries, after a clean stop", m.of("start-clean", "treaty", "seconds"), 0.3, "s")
    at_most("cold start with 100,000 entries, after kill -9", m.of("start-killed", "treaty", "seconds"), 0.3, "s")
    return lines


# ---- the tables ----

def number(value, digits=3):
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def msec(usec):
    return number(usec if usec is None else usec / 1e3)


def tables(m, systems, fsyncs):
    names = [s.name for s in systems]
    yield "| what | at the | clients | " + " | ".join(f"{n}/s | spread | p50 ms | p99 ms | CPU µs" for n in names) + " |"
    yield "|" + "---|" * (3 + 5 * len(names))
    for key, what, _, where, clients in ROWS:
        cells = [what, where, str(clients)]
        for n in names:
            cells += [number(m.of(key, n)), m.spread(key, n), msec(m.of(key, n, "p50_usec")),
                      msec(m.of(key, n, "p99_usec")), number(m.of(key, n, "cpu"))]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield "| treaty's local reads over | clients | /s | spread | over the better | p50 ms | p99 ms | CPU µs | sd-bus alone, /s | over it |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for key, over, clients in [(f"local-{n}", "the private socket", n) for n in (1, 64)] + BUS_ROWS:
        limit = m.of(key.replace("local", "private"), "floor")
        yield (f"| {over} | {clients} | {number(m.of(key, 'treaty'))} | {m.spread(key, 'treaty')} | "
               f"{number(ratio(m.of(key, 'treaty'), better(m, f'local-{clients}')))}x | "
               f"{number(m.of(key, 'treaty', 'p50_usec') / 1e3)} | {number(m.of(key, 'treaty', 'p99_usec') / 1e3)} | "
               f"{number(m.of(key, 'treaty', 'cpu'))} | {number(limit)} | {number(ratio(m.of(key, 'treaty'), limit))}x |")
    yield ""
    yield "| what | " + " | ".join(names) + " |"
    yield "|" + "---|" * (1 + len(names))
    for what, key, field, scale in (
            ("write to the last of 100 watchers, p50 ms", "watch-100", "p50_usec", 1e3),
            ("write to the last of 1,000 watchers, p50 ms", "watch-1000", "p50_usec", 1e3),
            ("a service registered to seen at another host, p50 ms", "register", "p50_usec", 1e3),
            ("leader killed to the next answer, s", "failover", "gap", 1),
            ("bytes to the disk per write, 64 clients, all members", "write-follower-64", "written", 1),
            ("RSS empty, MiB", "memory-empty", "mib", 1), ("RSS with 100,000 entries, MiB", "memory-full", "mib", 1),
            ("idle CPU of the busiest member, %", "idle", "cpu", 1), ("idle writes, KiB a minute", "idle", "kib", 1),
            ("cold start with 100,000 entries, clean, s", "start-clean", "seconds", 1),
            ("cold start with 100,000 entries, killed, s", "start-killed", "seconds", 1)):
        values = [m.of(key, n, field) for n in names]
        if any(v is not None for v in values):
            yield f"| {what} | " + " | ".join(number(v / scale if v is not None else None) for v in values) + " |"
    yield ""
    yield "| target | measured | wanted | |"
    yield "|---|---|---|---|"
    for what, value, goal, met, unit in targets(m):
        yield f"| {what} | {number(value)}{unit if value is not None else ''} | {goal} | {'yes' if met else 'no' if met is False else ''} |"
    yield ""
    yield (f"- raw fdatasync of this disk, in the same minutes: {statistics.median(fsyncs):.0f}/s "
           f"({min(fsyncs):.0f}–{max(fsyncs):.0f})")
    yield f"- one process wakes another on another core: {number(m.of('wake', 'floor', 'usec'))} µs (p50)"
    yield ("- *sd-bus alone* is a service that answers the same bytes at once and does nothing else (`tests/bench/floor.c`), on a socket "
           "of its own or on the same bus")


def prepare():
    rivals.install()
    # Configured anew, because ZooKeeper's client library may have come just now.
    run("meson", "setup", "--reconfigure", build.BUILD, build.CHECKOUT, timeout=300)
    run("ninja", "-C", build.BUILD, "tests/bench/treaty-load", "tests/bench/etcd-load", "tests/bench/zookeeper-load",
        "tests/bench/floor",
        timeout=600)


def compare(fleet, rounds=3, seconds=2.0, quick=False, write=False):
    medians, fsyncs = Medians(), []
    prepare()
    with fleet.lock(), contextlib.ExitStack() as stack:
        treaty = stack.enter_context(Treaty(fleet))
        systems = [treaty] + [stack.enter_context(Rival(r, f"{fleet.dir}-rivals")) for r in (rivals.Etcd, rivals.ZooKeeper)]
        time.sleep(3)
        memory(systems, "memory-empty", medians)
        warm(systems, 1 if quick else 5)
        fsyncs.append(bench.raw_fdatasync(fleet.dir, 1))
        with Floor(treaty) as floor:
            for _ in range(rounds):
                floor.measure(medians, seconds / 2)
        throughput(systems, medians, rounds, seconds)
        fsyncs.append(bench.raw_fdatasync(fleet.dir, 1))
        watchers(systems, medians, rounds, seconds, 100)
        watchers(systems, medians, rounds, seconds, 1000)
        registration(systems, medians, rounds, seconds)
        if not quick:
            failover(systems, medians, rounds)
        keys, bench.KEYS = bench.KEYS, 100000
        for system in systems if not quick else [treaty]:
            say(f"{system.name}: 100,000 entries")
            ask(system, system.leader(), "fill", 64)
        bench.KEYS = keys
        memory(systems, "memory-full", medians)
        cold_start(treaty, medians, rounds)
        idleness(systems, medians, 5 if quick else 30)
        fsyncs.append(bench.raw_fdatasync(fleet.dir, 1))
        lines = list(tables(medians, systems, fsyncs))
    print("\n".join(lines), flush=True)
    if write:
        bench.write_document(bench.machine() + [""] + lines)
