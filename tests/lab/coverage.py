# How much of the rooms that must never be wrong the tests run through: agent/raft, agent/log, agent/tree.
#
# A build of its own with gcov, without optimization, runs the rooms' unit tests, stories, corpora, failing calls and
# seeds of the simulation; gcovr adds it up over all programs. What counts as a branch: each way out of each condition that
# the compiler sees in a line, && and || one by one, but not those of assert() (the other way ends the process)
# nor of SIM_SEEN(). Nothing else is left out: not -ENOMEM, not errors of SQLite.
import json
import os
import subprocess
import sys

from . import build, packages
from .tools import LabError, run, say

DIRECTORY = f"{build.CHECKOUT}/build-coverage"
ROOMS = ("agent/raft", "agent/log", "agent/tree")
SUITES = ("log", "tree", "agent", "stories", "nth", "fuzz")
LINES, BRANCHES = 95, 85


def coverage(seeds, details):
    packages.install(packages.BUILD + packages.COVERAGE)
    if not os.path.exists(f"{DIRECTORY}/build.ninja"):
        run("meson", "setup", DIRECTORY, build.CHECKOUT, "-Db_coverage=true", "--buildtype=debug", "-Dman=disabled",
            timeout=300)
    say("building")
    run("ninja", "-C", DIRECTORY, timeout=1800)
    for root, _, files in os.walk(DIRECTORY):
        for name in files:
            if name.endswith(".gcda"):
                os.unlink(f"{root}/{name}")
    tests = [argument for suite in SUITES for argument in ("--suite", suite)]
    command("meson", "test", "-C", DIRECTORY, "--no-rebuild", "-t", "10", *tests)
    command("meson", "test", "-C", DIRECTORY, "--no-rebuild", "-t", "10", *raft_tests())
    for program, n in (("simulate", seeds), ("simulate-sqlite", seeds // 4)):
        if n > 0:
            command(f"{DIRECTORY}/tests/sim/{program}", "-q", "--seeds", f"1-{n}")
    return table(details)


def raft_tests():
    """Those of the core, but for its explorer: without optimization it would take all day, and finds no line."""
    told = run("meson", "introspect", "--tests", DIRECTORY).stdout
    return [t["name"] for t in json.loads(told) if t["suite"] == ["treaty:raft"] and "explore" not in t["name"]]


def command(*argv):
    say(" ".join(os.path.relpath(a, build.CHECKOUT) if a.startswith("/") else a for a in argv))
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if done.returncode != 0:
        say("(a test failed: what it ran through counts all the same)")


def table(details):
    done = run("gcovr", "--root", build.CHECKOUT, "-j", "2",
               "--exclude-unreachable-branches", "--exclude-lines-by-pattern", r".*SIM_SEEN\(.*",
               "--exclude-branches-by-pattern", r".*\bassert\(.*",
               *(f"--filter={build.CHECKOUT}/{room}/" for room in ROOMS), "--json", "-", DIRECTORY, timeout=1800)
    files = json.loads(done.stdout)["files"]
    good = True
    print(f"{'':24}{'lines':>8}{'run':>8}{'':8}{'branches':>10}{'taken':>8}")
    for room in ROOMS:
        mine = [f for f in files if f["file"].startswith(room + "/")]
        lines, taken = show(room, mine)
        good = good and lines >= LINES and taken >= BRANCHES
        if details:
            for f in mine:
                show("  " + os.path.basename(f["file"]), [f])
    return 0 if good else 1


def show(name, files):
    counted = [line for f in files for line in f["lines"] if not line["gcovr/noncode"]]
    branches = [b for line in counted for b in line["branches"] if not b.get("gcovr/noncode")]
    n, run_n = len(counted), sum(1 for line in counted if line["count"] > 0)
    m, taken = len(branches), sum(1 for b in branches if b["count"] > 0)
    a, b = 100 * run_n / max(n, 1), 100 * taken / max(m, 1)
    print(f"{name:24}{n:>8}{run_n:>8}{a:>7.1f}%{m:>10}{taken:>8}{b:>7.1f}%")
    return a, b
