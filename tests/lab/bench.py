# How fast treaty is on this machine, beside what the machine itself can do.
#
# The load comes from treaty-load (tests/bench), which sits on this machine, in one thread, and speaks to the private
# socket inside a host as programs there do. Three agents, the load and whatever else runs here share the machine: only
# ratios within one run say anything, so each run measures its own yardsticks: the disk's raw fdatasync rate, one client
# against many, and the CPU time that each agent spent per call, which depends least on who else was running.
import datetime
import glob
import json
import os
import platform
import re
import time

from . import build, cluster
from .tools import LabError, read, run, say

KEYS, VALUE = 10000, 256
DOC = f"{build.CHECKOUT}/docs/PERFORMANCE.md"
BEGIN, END = "<!-- measured by ./lab bench --write -->\n", "<!-- end of what was measured -->\n"


class Agent:
    """The agent of a host as this machine sees it."""

    def __init__(self, host):
        found = glob.glob(f"{host.cgroup}/payload/**/treatyd.service/cgroup.procs", recursive=True)
        pids = read(found[0]).split() if found else []
        if not pids:
            raise LabError(f"{host.name} runs no agent")
        self.host, self.pid = host, int(pids[0])

    @property
    def socket(self):
        return f"/proc/{self.pid}/root/run/treaty/private"

    @property
    def cpu_usec(self):
        """CPU time of all its threads; the scheduler's own count, far finer than clock ticks."""
        return sum(int(read(p).split()[0]) for p in glob.glob(f"/proc/{self.pid}/task/*/schedstat")) / 1000

    @property
    def wakes(self):
        """How often its threads were put on a processor of their own accord."""
        return sum(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", read(p), re.M).group(1))
                   for p in glob.glob(f"/proc/{self.pid}/task/*/status"))

    @property
    def written(self):
        """Bytes it sent towards the disk."""
        return int(re.search(r"^write_bytes: (\d+)", read(f"/proc/{self.pid}/io"), re.M).group(1))

    @property
    def memory_mib(self):
        return int(re.search(r"^VmRSS:\s+(\d+)", read(f"/proc/{self.pid}/status"), re.M).group(1)) / 1024


def load(agent, verb, clients=1, seconds=3.0, warm_up=0.5):
    """What treaty-load saw: a dict with per_second, p50_usec, p99_usec, answers, errors, ..."""
    done = run(f"{build.BUILD}/tests/bench/treaty-load", f"--clients={clients}", f"--seconds={seconds}",
               f"--warm-up={warm_up}", f"--keys={KEYS}", f"--size={VALUE}", verb, agent.socket,
               timeout=seconds + warm_up + 120)
    return json.loads(done.stdout)


def raw_fdatasync(directory, seconds):
    """fdatasyncs a second of 512-byte appends into a file that has its size already, as a log does it."""
    path = f"{directory}/fdatasync"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, bytes(8 << 20), 0)
        os.fsync(fd)
        count, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            os.pwrite(fd, b"x" * 512, (count * 512) % (8 << 20))
            os.fdatasync(fd)
            count += 1
        return count / (time.monotonic() - began)
    finally:
        os.close(fd)
        os.unlink(path)


def idle(agents, seconds):
    """Per agent what it does when nobody wants anything: CPU in %, wake-ups a second, bytes to the disk."""
    before = [(a.cpu_usec, a.wakes, a.written) for a in agents]
    time.sleep(seconds)
    return [((a.cpu_usec - cpu) / seconds / 1e4, (a.wakes - wakes) / seconds, a.written - written)
            for a, (cpu, wakes, written) in zip(agents, before)]


def settle(agents, timeout=60):
    """Until nothing of what was done before is still on its way to the disk: two seconds without a byte."""
    deadline, before = time.monotonic() + timeout, None
    while time.monotonic() < deadline:
        now = [a.written for a in agents]
        if now == before:
            return
        before = now
        time.sleep(2)


def roles(hosts):
    """(leader, the others) as agents."""
    first = cluster.leader(hosts)
    return Agent(first), [Agent(h) for h in hosts if h.name != first.name]


# ---- the table ----

HEAD = ["what", "asked at", "clients", "per second", "p50 ms", "p99 ms", "leader µs", "asked µs", "all µs", "errors"]


def row(what, verb, where, leader, followers, clients, seconds):
    asked = leader if where == "leader" else followers[0]
    agents = [leader] + followers
    before = [a.cpu_usec for a in agents]
    seen = load(asked, verb, clients, seconds)
    spent = {a: (a.cpu_usec - b) / max(1, seen["all_answers"]) for a, b in zip(agents, before)}
    return [what, where, clients, round(seen["per_second"]), seen["p50_usec"] / 1e3, seen["p99_usec"] / 1e3,
            spent[leader], spent[asked], sum(spent.values()), seen["errors"]]


def cell(value):
    if isinstance(value, float):
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return str(value)


def measure(fleet, hosts, seconds, idle_seconds):
    """Measures and prints as it goes; returns the lines for the document."""
    lines = []

    def tell(line=""):
        print(line, flush=True)
        lines.append(line)

    leader, followers = roles(hosts)
    agents = [leader] + followers
    empty = max(a.memory_mib for a in agents)
    load(leader, "fill", 64)
    rate = raw_fdatasync(fleet.dir, seconds)
    tell("| " + " | ".join(HEAD) + " |")
    tell("|" + "---|" * len(HEAD))
    rates = {}
    for what, verb, counts in (("write", "set", (1, 16, 64, 100, 256)), ("local read", "get", (1, 64)),
                               ("linearizable read", "linearizable", (1, 64))):
        for where in ("follower", "leader"):
            for clients in counts:
                cells = row(what, verb, where, leader, followers, clients, seconds)
                rates[verb, where, clients] = cells[3]
                tell("| " + " | ".join(cell(c) for c in cells) + " |")
    rate = (rate + raw_fdatasync(fleet.dir, seconds)) / 2
    tell()
    tell(f"- raw fdatasync of this disk, in the same minutes: {rate:.0f}/s, {1e3 / rate:.2f} ms each")
    tell(f"- 100 writers get {rates['set', 'follower', 100] / max(1, rates['set', 'follower', 1]):.1f} times the "
         f"throughput of one at a follower, {rates['set', 'leader', 100] / max(1, rates['set', 'leader', 1]):.1f} times "
         "at the leader")
    full = max(a.memory_mib for a in agents)
    tell(f"- memory (RSS, the largest of three): {empty:.1f} MiB empty, {full:.1f} MiB with {KEYS} entries of {VALUE} "
         "bytes after all of the above")
    settle(agents)
    seen = idle(agents, idle_seconds)
    for name, (cpu, wakes, written) in zip(["leader"] + ["follower"] * len(followers), seen):
        tell(f"- idle {name} over {idle_seconds:.0f} s: {cpu:.2f} % CPU, {wakes:.0f} wake-ups a second, "
             f"{written} bytes to the disk")
    return lines


def machine():
    """What a reader has to know to compare."""
    cpu = re.search(r"^model name\s*: (.*)$", read("/proc/cpuinfo"), re.M)
    memory = int(re.search(r"^MemTotal:\s+(\d+)", read("/proc/meminfo"), re.M).group(1)) / 1048576
    commit = run("git", "-C", build.CHECKOUT, "rev-parse", "--short=12", "HEAD", check=False).stdout.strip()
    return [f"- {datetime.date.today()}, treaty {commit or 'without git'}, built with --buildtype=debugoptimized",
            f"- {os.cpu_count()} cores ({cpu.group(1) if cpu else platform.machine()}), {memory:.1f} GiB, "
            f"Linux {platform.release()}; load average at the end {os.getloadavg()[0]:.1f}"]


def write_document(lines):
    try:
        text = read(DOC)
    except FileNotFoundError:
        raise LabError(f"{DOC} is missing, so there is nowhere to write to")
    if BEGIN not in text or END not in text:
        raise LabError(f"{DOC} has lost the marks between which measurements go")
    before, rest = text.split(BEGIN, 1)
    with open(DOC, "w") as f:
        f.write(before + BEGIN + "\n".join([""] + lines + [""]) + "\n" + END + rest.split(END, 1)[1])
    say(f"written to {DOC}")


def bench(fleet, seconds, idle_seconds=20, write=False):
    with fleet.lock():
        hosts = fleet.up(3)
        try:
            cluster.form(hosts)
            lines = measure(fleet, hosts, seconds, idle_seconds)
            if write:
                write_document(machine() + [""] + lines)
        finally:
            fleet.down()
