# All tests, counted as one: what `./lab test` and CI run.
#
# Five parts, cheapest first: the format of the sources, what meson knows (unit tests, stories, doors), the checked-in seeds
# of the simulation, the
# bug bank (each planted bug is found again), the hosts (booted once, pytest over them). Each part streams its own progress; the sums are taken from the machine-readable
# reports, never from what scrolled by. A part that cannot even start counts as one failure, so that it cannot be lost.
import json
import os
import random
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

from . import build, packages, simulation
from .fleet import Fleet
from .tools import LabError, run, say

PARTS = ("format", "units", "simulation", "bank", "hosts")
UNIT_SECONDS = 14 * 60
HOST_SECONDS = 20 * 60
BANK_SECONDS = 10 * 60  # compiling it the first time included


def test(fleet, parts, only):
    for part in parts:
        if part not in PARTS:
            say(f"there is no part '{part}' of the tests; there are {', '.join(PARTS)}")
            return 2
    began = time.monotonic()
    passed, failed = 0, 0
    names = []
    try:
        packages.install(packages.BUILD + packages.RUN + packages.TEST)
        build.build()
        chosen = parts or PARTS
    except LabError as e:
        say(e)
        failed, names, chosen = 1, ["build"], ()
    for part in chosen:
        say(f"---- {part}")
        part_began = time.monotonic()
        try:
            p, f = {"format": formatted, "units": units, "simulation": simulation.tests, "bank": bank, "hosts": lambda: hosts(fleet, only)}[part]()
        except LabError as e:
            say(e)
            p, f = 0, [part]
        passed, failed = passed + p, failed + len(f)
        names += f
        say(f"---- {part}: {p} passed, {len(f)} failed, {time.monotonic() - part_began:.0f} s")
    for name in names:
        say(f"failed: {name}")
    say(f"all parts took {time.monotonic() - began:.0f} s")
    sys.stderr.flush()
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


def formatted():
    """The sources are formatted as .clang-format says."""
    files = run("git", "-C", build.CHECKOUT, "ls-files", "*.c", "*.h").stdout.split()
    done = run("clang-format-14", "--dry-run", "--Werror", *files, cwd=build.CHECKOUT, check=False, timeout=300)
    if done.returncode == 0:
        return 1, []
    wrong = sorted(set(re.findall(r"^(\S+?):\d+:", done.stderr, re.M))) or [done.stderr.strip()[:300]]
    for name in wrong:
        say(f"not formatted: {name}; 'clang-format-14 -i {name}' does it")
    return 0, ["clang-format"]


def units():
    """Everything meson knows. A program of many cmocka tests counts as that many."""
    log = f"{build.BUILD}/meson-logs/testlog.json"
    if os.path.exists(log):
        os.unlink(log)
    try:
        subprocess.run(["meson", "test", "-C", build.BUILD, "--no-rebuild", "--print-errorlogs"],
                       stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=UNIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise LabError(f"meson test did not end within {UNIT_SECONDS} s")
    if not os.path.exists(log):
        raise LabError("meson test left no report; the output above says why")
    passed, failed = 0, []
    with open(log) as f:
        for line in f:
            result = json.loads(line)
            good = result["result"] in ("OK", "EXPECTEDFAIL")
            told = (result.get("stdout") or "") + (result.get("stderr") or "")
            bad = sorted(set(re.findall(r"^\[  FAILED  \] (\w+)$", told, re.M)) - {"GROUP"})
            if good:
                passed += sum(int(n) for n in re.findall(r"^\[  PASSED  \] (\d+) test", told, re.M)) or 1
            else:
                passed += sum(int(n) for n in re.findall(r"^\[  PASSED  \] (\d+) test", told, re.M))
                failed += [f"{result['name']}: {b}" for b in bad] or [f"{result['name']} ({result['result']})"]
    return passed, failed


def bank():
    """Each planted bug is found by the command that is stored with it, and nothing is found without a bug."""
    try:
        done = subprocess.run(["/usr/bin/python3", "-B", f"{build.CHECKOUT}/tests/bank/bank.py", "replay",
                               "--production", build.BUILD], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=sys.stderr, text=True, timeout=BANK_SECONDS)
    except subprocess.TimeoutExpired:
        raise LabError(f"the bug bank was not replayed within {BANK_SECONDS} s")
    sys.stderr.write(done.stdout)
    failed = ["bank: " + line.removeprefix("failed: ") for line in done.stdout.splitlines()
              if line.startswith("failed: ")]
    passed = re.search(r"bugs: (\d+) runs as expected", done.stdout)
    if not passed or (done.returncode != 0 and not failed):
        raise LabError("the bug bank was not replayed; the output above says why")
    return int(passed.group(1)), failed


def search_bank():
    """Every planted bug searched anew: at most ten minutes of processor time each, and seeds that nobody has seen."""
    build.build()
    return subprocess.run(["/usr/bin/python3", "-B", f"{build.CHECKOUT}/tests/bank/bank.py", "search", "--cpu", "600",
                           "--from", str(random.randrange(10**6, 10**9))]).returncode


def hosts(fleet, only):
    """The host tests: pytest over freshly booted hosts."""
    report = f"{build.BUILD}/meson-logs/hosts.xml"
    if os.path.exists(report):
        os.unlink(report)
    argv = ["/usr/bin/python3", "-B", "-s", "-m", "pytest", "-p", "no:cacheprovider", "-v", "--tb=short",
            "--durations=8", f"--junitxml={report}", f"{build.CHECKOUT}/tests/hosts"]
    with fleet.lock():
        try:
            subprocess.run(argv + (["-k", only] if only else []), stdin=subprocess.DEVNULL, stdout=sys.stderr,
                           timeout=HOST_SECONDS, cwd=build.CHECKOUT, env={**os.environ, "LAB_NAME": fleet.name})
        except subprocess.TimeoutExpired:
            raise LabError(f"the host tests did not end within {HOST_SECONDS} s")
        finally:
            # What a run that was cut short leaves of the labs in conftest.py and beside it.
            for also in ("", "x", "j", "b", "n", "p"):
                Fleet(fleet.name + also).down()
    if not os.path.exists(report):
        raise LabError("pytest left no report; the output above says why")
    passed, failed = 0, []
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        bad = [child.tag for child in case if child.tag in ("failure", "error")]
        if bad:
            failed.append(f"{case.get('classname', '').replace('tests.hosts.', '')}.{case.get('name')}")
        elif not any(child.tag == "skipped" for child in case):
            passed += 1
    return passed, failed
