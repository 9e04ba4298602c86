# The simulation (docs/SIMULATION.md) from the lab's door: one seed, the checked-in seeds of every test run, and the soak
# over fresh ones for as long as somebody has patience.
import os
import random
import re
import signal
import subprocess
import sys
import time

from . import build
from .tools import LabError, read, run, say

ASAN = f"{build.CHECKOUT}/build-asan"
WHOLE = f"{build.CHECKOUT}/build-whole"  # what runs for minutes is worth a slow link
SEEDS = f"{build.CHECKOUT}/tests/sim/seeds"
TICKS = 10000

# What every test run simulates: program and its seeds.
RUNS = (("fast", WHOLE, "simulate", "fast.txt"), ("sqlite", WHOLE, "simulate-sqlite", "sqlite.txt"),
        ("asan", ASAN, "simulate", "asan.txt"))
RUN_SECONDS = 15 * 60
SQLITE_SHARE = 0.1  # of a soak's time: the real files below the tree


def program(directory, name):
    return f"{directory}/tests/sim/{name}"


def build_apart(directory, programs, *options):
    name = os.path.basename(directory)
    say(f"setting up {name}/")  # each time: which file defines what is asked then
    again = ["--reconfigure"] if os.path.exists(f"{directory}/build.ninja") else []
    run("meson", "setup", *again, directory, build.CHECKOUT, *options, timeout=300)
    say(f"building {name}/")
    run("ninja", "-C", directory, *(f"tests/sim/{program}" for program in programs), timeout=900)


def build_whole():
    build_apart(WHOLE, ("simulate", "simulate-sqlite"), "-Dsim_whole=true")


def build_asan():
    build_apart(ASAN, ("simulate",), "-Db_sanitize=address,undefined", "-Db_lundef=false")


def simulate(arguments):
    """`./lab simulate …`: builds what is needed, then is that program."""
    build.build()
    name = "simulate-sqlite" if "--sqlite" in arguments else "simulate"
    os.execv(program(build.BUILD, name), [name] + [a for a in arguments if a != "--sqlite"])


def tests():
    """The checked-in seeds. Passed: every seed that held; failed: the names of runs that did not."""
    build_whole()
    build_asan()
    passed, failed = 0, []
    seen = f"{build.BUILD}/seen.txt"
    if os.path.exists(seen):
        os.remove(seen)
    for name, directory, what, seeds in RUNS:
        say(f"simulating {seeds}")
        done, text = told([program(directory, what), "-q", "--jobs", str(os.cpu_count()), "--ticks", str(TICKS),
                           "--list", f"{SEEDS}/{seeds}", "--seen-file", seen], RUN_SECONDS)
        sums = re.search(r"^(\d+) seeds, (\d+) failed", text, re.M)
        if sums:
            passed += int(sums[1]) - int(sums[2])
        if done != 0 or not sums:
            failed.append(f"simulation {name} ({done})")
    for place in unreached(seen):
        failed.append(f"rare place never reached: {place}")
    return passed + 1, failed


def unreached(seen):
    """Rare places in the sources that no run came by, and that unreached.txt does not name."""
    marks = set()
    for path in run("git", "-C", build.CHECKOUT, "ls-files", "agent/*.c").stdout.split():
        marks |= set(re.findall(r'SIM_SEEN\("([^"]+)"\)', read(f"{build.CHECKOUT}/{path}")))
    known = {line.strip() for line in read(f"{SEEDS}/unreached.txt").splitlines() if not line.startswith("#")}
    reached = set(read(seen).splitlines()) if os.path.exists(seen) else set()
    say(f"{len(marks)} rare places, {len(marks & reached)} reached, {len((marks & known) - reached)} known not to be")
    return sorted(marks - reached - known)


def told(argv, timeout):
    """Runs it with its output shown and kept; an interrupt is its own to handle: it tells its sums, then ends."""
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    lines, until = [], time.monotonic() + timeout
    pass_on = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        while True:
            try:
                for line in process.stdout:
                    print(line, end="", file=sys.stderr, flush=True)
                    lines.append(line)
                    if time.monotonic() > until:
                        process.terminate()
                return process.wait(), "".join(lines)
            except KeyboardInterrupt:
                continue
    finally:
        signal.signal(signal.SIGTERM, pass_on)
        if process.poll() is None:
            process.kill()


def soak(minutes, jobs):
    """Fresh seeds on all cores, mostly without SQLite."""
    build.build()
    build_whole()
    jobs = jobs or os.cpu_count()
    first = random.SystemRandom().randrange(1 << 48)
    failures = f"{build.BUILD}/simulation-failures.txt"
    if os.path.exists(failures):
        os.unlink(failures)
    sums, worst = {}, 0
    for what, share in (("simulate", 1 - SQLITE_SHARE), ("simulate-sqlite", SQLITE_SHARE)):
        say(f"{what}: {minutes * share:.1f} minutes, {jobs} at a time, seeds from {first} on")
        done, text = told([program(WHOLE, what), "--ticks", str(TICKS), "--jobs", str(jobs), "--first", str(first),
                           "--minutes", f"{minutes * share:.3f}", "--failures", failures], minutes * 60 + 900)
        worst = worst or done
        for line in re.findall(r"^ *\d+ s: (.*)", text, re.M)[-1:]:
            for number, word in re.findall(r"(\d+) ([a-z]+)", re.sub(r"\(.*?\)", "", line)):
                sums[word] = sums.get(word, 0) + int(number)
        if "interrupted" in text:
            break
    print("in all: " + ", ".join(f"{n} {word}" for word, n in sums.items()))
    if os.path.exists(failures):
        print(f"what failed, and the commands that do it again: {failures}")
    return 1 if worst else 0
