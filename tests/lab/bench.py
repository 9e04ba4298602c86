# How agents are looked at from outside: what they answer to a load, and what it costs them.
#
# The load comes from treaty-load (tests/bench), which sits on this machine, in one thread, and speaks to the private
# socket inside a host as programs there do. Three agents, the load and whatever else runs here share the machine: only
# ratios within one run say anything, and the CPU time per call, which depends least on who else was running.
# compare.py measures treaty beside others; tests of speed use what is here.
import datetime
import glob
import json
import os
import platform
import re
import subprocess
import time

from . import build, cluster, packages
from .tools import LabError, read, run, say

KEYS, VALUE = 10000, 256
DOC = f"{build.CHECKOUT}/docs/PERFORMANCE.md"
END = "<!-- end of what was measured -->\n"
COMPARED, SCALING = "<!-- measured by ./lab bench --write -->\n", "<!-- measured by ./lab bench --scaling --write -->\n"


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


def instructions():
    """Tells what became of the kept numbers, and keeps the new ones."""
    packages.install(packages.TEST)
    build.build()
    return subprocess.run([f"{build.CHECKOUT}/tests/bench/count.py", f"{build.BUILD}/tests/bench/count",
                           f"{build.CHECKOUT}/tests/bench/instructions.txt", "--rewrite"]).returncode


VERSIONS = """etcd-server zookeeper openjdk-17-jre-headless systemd libsystemd0 dbus libsqlite3-0 libnghttp2-14 libssl3
    gcc""".split()


def versions():
    told = run("dpkg-query", "-W", "-f", "${Package} ${Version}, ", *VERSIONS, check=False).stdout
    return f"- Debian 12: {told.rstrip(', ')}"


def machine():
    """What a reader has to know to compare."""
    cpu = re.search(r"^model name\s*: (.*)$", read("/proc/cpuinfo"), re.M)
    memory = int(re.search(r"^MemTotal:\s+(\d+)", read("/proc/meminfo"), re.M).group(1)) / 1048576
    commit = run("git", "-C", build.CHECKOUT, "rev-parse", "--short=12", "HEAD", check=False).stdout.strip()
    return [f"- {datetime.date.today()}, treaty {commit or 'without git'}, built with --buildtype=debugoptimized",
            f"- {os.cpu_count()} cores ({cpu.group(1) if cpu else platform.machine()}), {memory:.1f} GiB, "
            f"Linux {platform.release()}; load average at the end {os.getloadavg()[0]:.1f}", versions()]


def write_document(lines, begin=COMPARED):
    """Between the mark that says what is measured there and the next end."""
    try:
        text = read(DOC)
    except FileNotFoundError:
        raise LabError(f"{DOC} is missing, so there is nowhere to write to")
    if begin not in text or END not in text.split(begin, 1)[1]:
        raise LabError(f"{DOC} has lost the marks between which measurements go")
    before, rest = text.split(begin, 1)
    with open(DOC, "w") as f:
        f.write(before + begin + "\n".join([""] + lines + [""]) + "\n" + END + rest.split(END, 1)[1])
    say(f"written to {DOC}")
