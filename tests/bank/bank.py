#!/usr/bin/python3 -B
# The bug bank: rules of this house, each taken out once, and what notices it.
#
# bugs/*.bugs tells, by hand, how each rule is taken out and which programs of the suite are expected to notice. found.txt
# tells, by machine, the command that did notice and what it said. Between the two stands this program:
#
#     bank.py build                 plants and compiles (build-bank/)
#     bank.py replay [NAME…]        each bug is noticed, and what notices it holds without; what ./lab test runs
#     bank.py refresh [NAME…]       keeps what still finds, searches a new command for the others
#     bank.py search [NAME…]        forgets all seeds and searches with fresh ones; what ./lab soak --bank runs
#     bank.py table                 writes docs/BUGS.md
#     bank.py check                 every bug can still be planted, and docs/BUGS.md is complete; part of every meson test
#     bank.py run NAME PROGRAM ARGUMENT…     one program with one bug awake, to look at it
#
# A change of the simulation makes other runs of the same seeds. What a seed in three hundred finds is found all the same,
# a few seeds on, and what is rarer has a story or a test that needs no luck: replay looks there before it says that
# nobody notices. refresh then writes down what does.
import argparse
import itertools
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import plant  # noqa: E402
from plant import CHECKOUT, HERE, BankError  # noqa: E402

FOLDER = f"{CHECKOUT}/build-bank"
SOURCE = f"{FOLDER}/source"
BUILD = f"{FOLDER}/build"
FOUND = f"{HERE}/found.txt"
PAGE = f"{CHECKOUT}/docs/BUGS.md"

# How long the simulation runs at first, and for how many seeds; short runs are cheap to repeat.
STAGES = ((300, 30), (600, 60), (1200, 60), (600, 1000), (2400, 100000))
COUNTER_EXAMPLES = 22
RUN_CPU_SECONDS = 30  # a single run that needs more neither holds nor finds
NEAR_CPU_SECONDS = 15  # for the seeds behind one that notices no more
SEEDED = ("sim", "sqlite", "random")
USAGE = 2


def say(text):
    print(text, file=sys.stderr, flush=True)


# ---- Commands ----
#
# What stands behind 'by:' is a kind of command; with a seed it becomes a command, which is what found.txt keeps.

STORIES = {"story": "tests/raft/stories", "hall": "tests/agent/stories"}


def sim(options, fresh):
    for ticks, n in STAGES:
        for seed in range(fresh, fresh + n):
            yield f"sim {options} --ticks {ticks} {seed}".replace("  ", " ")
        fresh += n


def random(options, fresh):
    return (f"random {seed}" for seed in range(fresh, fresh + 20000))


def stories(kind, folder):
    """One, or each of them."""
    def each(options, _):
        names = [options] if options else sorted(n[:-4] for n in os.listdir(f"{CHECKOUT}/{folder}") if n.endswith(".txt"))
        return (f"{kind} {name}" for name in names)
    return each


def once(command):
    return lambda options, fresh: iter((f"{command} {options}".strip(),))


def sqlite(options, fresh):
    return (c.replace("sim", "sqlite", 1) for c in sim(options, fresh))


KINDS = {"sim": sim, "sqlite": sqlite, "random": random, "story": stories("story", STORIES["story"]),
         "hall": stories("hall", STORIES["hall"]), "explore": once("explore"), "run": once("run")}


PROGRAMS = {"sim": "tests/sim/simulate", "sqlite": "tests/sim/simulate-sqlite", "story": "tests/raft/raft_story",
            "hall": "tests/agent/hall-story"}


def argv(command):
    kind, *words = shlex.split(command)
    if kind == "random":
        return [f"{BUILD}/tests/raft/test_raft_random", words[0], "1"]
    if kind in STORIES:
        return [f"{BUILD}/{PROGRAMS[kind]}", f"{SOURCE}/{STORIES[kind]}/{words[0]}.txt"]
    if kind == "explore":
        return [f"{BUILD}/tests/raft/raft_explore", *words]
    if kind == "run":
        return [f"{BUILD}/{words[0]}", *words[1:]]
    if kind in PROGRAMS:
        return [f"{BUILD}/{PROGRAMS[kind]}", *words]
    raise BankError(f"'{command}' begins with none of {', '.join(KINDS)}")


def program(command):
    return os.path.relpath(argv(command)[0], BUILD)


class Run:
    """A program that ended: its status, what it told, the processor time it took."""

    def __init__(self, command, bug=None):
        def limits():
            resource.setrlimit(resource.RLIMIT_CPU, (RUN_CPU_SECONDS, RUN_CPU_SECONDS + 5))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        self.command = command
        environment = {**os.environ, "TREATY_BUG": bug or "", "LC_ALL": "C"}
        with tempfile.TemporaryFile() as out:
            child = subprocess.Popen(argv(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment,
                                     cwd=BUILD, preexec_fn=limits)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(max(0, out.tell() - 4000))
            self.text = out.read().decode(errors="replace")
        self.status = child.returncode
        self.cpu = usage.ru_utime + usage.ru_stime

    @property
    def held(self):
        return self.status == 0

    @property
    def wrong(self):
        """The simulation was asked for what it does not know. (cmocka's status is a number of failures.)"""
        return self.status in (126, 127) or (self.status == USAGE and self.command.split()[0] in ("sim", "sqlite"))

    @property
    def failed(self):
        """It noticed. Asked wrongly, or stopped for taking too long, is neither held nor failed."""
        return self.status not in (0, -24, -9, 127, 126) and not self.wrong

    def told(self):
        """The line that says what is wrong."""
        lines = [line.strip() for line in self.text.splitlines() if line.strip()]
        if not lines:
            return f"status {self.status}"
        for line in reversed(lines):
            if ": BROKEN: " in line or ": STUCK: " in line:
                return line.split(" s: ", 1)[-1]
        for line in reversed(lines):
            if "Assertion `" in line:
                return "ASSERTION: " + line.split("Assertion `", 1)[1].rsplit("' failed", 1)[0]
        for line in lines:
            if "[  FAILED  ]" in line:
                return "FAILED: " + line.split("]", 1)[1].strip()
        if self.command.split()[0] in STORIES:
            return "the story is another one"
        return lines[-1]


# ---- What was found ----

class Found:
    def __init__(self, command, cpu, told):
        self.command, self.cpu, self.told = command, cpu, told


def found_read():
    found = {}
    try:
        with open(FOUND) as f:
            for line in f:
                if line.strip() and not line.startswith("#"):
                    name, command, cpu, told = (part.strip() for part in line.split("|", 3))
                    found[name] = Found(command, float(cpu), told)
    except FileNotFoundError:
        pass
    return found


def found_write(found, bugs):
    lines = ["# Made by 'tests/bank/bank.py refresh': bug | command that notices | CPU seconds of the search | what it says\n"]
    for bug in bugs:
        if bug.name in found:
            f = found[bug.name]
            lines.append(f"{bug.name} | {f.command} | {f.cpu:.1f} | {f.told.replace('|', '/')[:150]}\n")
    with open(FOUND + ".new", "w") as f:
        f.writelines(lines)
    os.replace(FOUND + ".new", FOUND)


# ---- Build ----

def build(bugs, quiet=True):
    plant.copy(SOURCE, bugs)
    if not os.path.exists(f"{BUILD}/build.ninja"):
        call(["meson", "setup", "--buildtype=debugoptimized", "-Dtests=enabled", "-Dman=disabled", "-Dwerror=false",
              "-Dwarning_level=0", "-Dc_args=-w", BUILD, SOURCE])
    commands = [f.command for f in found_read().values()] + [next(KINDS[b.split()[0]](b.partition(" ")[2], 1))
                                                              for bug in bugs for b in bug.by]
    call(["ninja", "-C", BUILD, *sorted({program(c) for c in commands})])


def call(command):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise BankError(f"'{' '.join(command[:3])} …' failed:\n{done.stdout[-3000:]}")


# ---- Replay ----

def in_parallel(jobs):
    """Runs the functions on all processors; their results in order."""
    results = [None] * len(jobs)
    waiting = iter(enumerate(jobs))
    lock = threading.Lock()

    def work():
        while True:
            with lock:
                at, job = next(waiting, (None, None))
            if job is None:
                return
            results[at] = job()

    threads = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def near(command):
    """The same with the seeds behind it."""
    *words, seed = command.split()
    return (" ".join([*words, str(n)]) for n in itertools.count(int(seed) + 1))


def elsewhere(bug, stored):
    """The run that notices where the stored command does no more: one of the seeds behind it, or what needs no seed."""
    used = 0.0
    seedless = [b for b in bug.by if b.split()[0] not in (*SEEDED, "explore")]
    seeds = near(stored) if stored.split()[0] in SEEDED else ()
    behind = itertools.takewhile(lambda _: used < NEAR_CPU_SECONDS, seeds)
    for command in itertools.chain(behind, *(KINDS[b.split()[0]](b.partition(" ")[2], 1) for b in seedless)):
        run = Run(command, bug.name)
        used += run.cpu
        if run.failed and Run(command).held:
            return run
    return None


def replay(bugs, found):
    """(number that passed, [what failed])."""
    failed = [f"{b.name}: no command is stored that finds it; 'tests/bank/bank.py refresh' searches one"
              for b in bugs if b.name not in found]
    kept = [b for b in bugs if b.name in found]
    commands = sorted({found[b.name].command for b in kept})
    runs = in_parallel([lambda c=c: Run(c) for c in commands] +
                       [lambda b=b: Run(found[b.name].command, b.name) for b in kept])
    for command, run in zip(commands, runs):
        if not run.held:
            failed.append(f"without any bug, '{command}' ends with {run.status}: {run.told()}")
    lost = [(b, r) for b, r in zip(kept, runs[len(commands):]) if not r.failed]
    for (bug, run), other in zip(lost, in_parallel([lambda b=b, r=r: elsewhere(b, r.command) for b, r in lost])):
        if other:
            print(f"moved: {bug.name}: '{run.command}' does not notice it any more, '{other.command}' does")
        else:
            failed.append(f"{bug.name}: neither '{run.command}' (status {run.status}) nor what is near it notices it any "
                          f"more; 'tests/bank/bank.py refresh' searches anew")
    return len(runs) - sum(": no command" not in f for f in failed), failed


def same_as_production(production):
    """With no bug awake the planted sources do what the sources do: traces have equal hashes."""
    failed = []
    for seed in range(1, 4):
        outputs = []
        for folder in (BUILD, production):
            done = subprocess.run([f"{folder}/tests/sim/simulate", "--ticks", "300", str(seed)], capture_output=True,
                                  text=True, env={**os.environ, "TREATY_BUG": ""}, timeout=300)
            outputs.append(done.stdout)
        if outputs[0] != outputs[1] or "hash" not in outputs[0]:
            failed.append(f"with no bug awake, seed {seed} differs from production: {outputs}")
    return failed


# ---- Search ----

class Search:
    """One bug, and the commands still to be tried. A kind of command gives way to the next when its time is used up."""

    def __init__(self, bug, cpu_seconds, fresh, first_kind_only):
        self.bug = bug
        self.cpu_seconds = cpu_seconds
        self.kinds = [KINDS[b.split()[0]](b.partition(" ")[2], fresh) for b in bug.by[:1 if first_kind_only else None]]
        self.used = 0.0
        self.cpu = 0.0
        self.running = 0
        self.tried = 0
        self.result = None
        self.over = False

    def next(self):
        while self.kinds and not self.result:
            command = next(self.kinds[0], None) if self.used < self.cpu_seconds else None
            if command:
                return command
            if self.running > 0:
                return None  # the last of this kind are still under way
            self.kinds.pop(0)
            self.used = 0.0
        self.over = self.running == 0
        return None

    def done(self, run, fair):
        self.tried += 1
        self.used += run.cpu
        self.cpu += run.cpu
        if run.wrong:
            raise BankError(f"'{run.command}' cannot be run: {run.told()}")
        if run.failed and not self.result and fair(run.command):
            self.result = Found(run.command, self.cpu, run.told())


def search(bugs, cpu_seconds, fresh, found, told, first_kind_only=False):
    """Searches all of them at once, each on as few processors as there are others; calls told() for each that ended."""
    searches = [Search(b, cpu_seconds, fresh, first_kind_only) for b in bugs]
    without = {}
    lock = threading.Lock()
    failure = []

    def fair(command):
        """It holds without the bug."""
        if command not in without:
            without[command] = Run(command)
            if not without[command].held:
                say(f"'{command}' fails without any bug: {without[command].told()}")
        return without[command].held

    def take():
        for s in sorted((s for s in searches if not s.over), key=lambda s: s.running):
            command = s.next()
            if command:
                s.running += 1
                return s, command
            if s.over:
                told(s)
        return None, None

    def work():
        while not failure:
            with lock:
                s, command = take()
                if not s and all(s.over for s in searches):
                    return
            if not s:
                time.sleep(0.05)
                continue
            run = Run(command, s.bug.name)
            good = run.failed and fair(command)
            with lock:
                s.running -= 1
                try:
                    s.done(run, lambda _: good)
                except BankError as e:
                    failure.append(e)
                if s.result and s.running == 0:
                    s.over = True
                    found[s.bug.name] = s.result
                    told(s)

    threads = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failure:
        raise failure[0]


def refresh(bugs, everything, cpu_seconds, fresh, anew, better):
    found = found_read()
    names = {b.name for b in everything}
    found = {name: f for name, f in found.items() if name in names}
    wanted, good = bugs, set()
    if not anew:
        kept = [b for b in bugs if b.name in found and known(b, found[b.name].command)]
        runs = in_parallel([lambda b=b: Run(found[b.name].command, b.name) for b in kept])
        clean = in_parallel([lambda b=b: Run(found[b.name].command) for b in kept])
        good = {b.name for b, r, c in zip(kept, runs, clean) if r.failed and c.held}
        wanted = [b for b in bugs if b.name not in good]
        if better:
            wanted += [b for b in bugs if b.name in good and found[b.name].command.split()[0] != b.by[0].split()[0]]
        say(f"{len(good)} are found as before, {len(wanted)} are searched")

    def told(s):
        # After each one: a search that is cut short keeps what it has.
        if s.result:
            say(f"{s.bug.name}: {s.result.command} ({s.tried} runs, {s.cpu:.1f} s): {s.result.told}")
        else:
            if s.bug.name not in good:
                found.pop(s.bug.name, None)
            say(f"{s.bug.name}: NOT FOUND ({s.tried} runs, {s.cpu:.1f} s)")
        found_write(found, everything)

    search(wanted, cpu_seconds, fresh, found, told, better)
    found_write(found, everything)
    return found, [b.name for b in bugs if b.name not in found]


def known(bug, command):
    """Is the stored command of a kind that the bug still names, and is its program there?"""
    kind = command.split()[0]
    return any(b.split()[0] == kind for b in bug.by) and os.path.exists(argv(command)[0])


# ---- The page ----

def page(bugs, found):
    lines = ["# The bug bank\n",
             "Each line takes one rule out of the sources (`tests/bank/bugs/`), and each is noticed by the command that is "
             "stored with it\n(`tests/bank/found.txt`); `./lab test` replays all of them, `./lab soak --bank` searches anew "
             "with fresh seeds. Traps are those of\nRaft systems in general (R), of the replicated tree (W) and of storage (S); C are "
             "the counter-examples that shaped this design.\n",
             "This page is made by `tests/bank/bank.py table`.\n",
             "| Bug | The rule that is taken out | Trap | Found by | Ticks | CPU | It says |",
             "| --- | --- | --- | --- | ---: | ---: | --- |"]
    for bug in bugs:
        f = found.get(bug.name)
        command = f"`{f.command}`" if f else "**not found**"
        words = f.command.split() if f else []
        ticks = words[words.index("--ticks") + 1] if "--ticks" in words else ""
        rule = bug.rule.replace("\n", " ").replace("|", "\\|")
        told = f.told.replace("|", "\\|") if f else ""
        lines.append(f"| {bug.name} | {rule} | {bug.trap} | {command} | {ticks} | {f'{f.cpu:.1f} s' if f else ''} | {told} |")
    return "\n".join(lines) + "\n"


# ---- The command line ----

def chosen(bugs, names):
    by_name = {b.name: b for b in bugs}
    for name in names:
        if name not in by_name:
            raise BankError(f"there is no bug '{name}'")
    return [by_name[n] for n in names] if names else bugs


def main():
    parser = argparse.ArgumentParser(prog="bank.py", description="the bug bank; see the head of this file")
    parser.add_argument("verb", choices=("build", "replay", "refresh", "search", "table", "check", "run"))
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--cpu", type=float, default=120, help="seconds of processor time per bug and kind of command")
    parser.add_argument("--from", type=int, default=1, dest="fresh", help="the first seed")
    parser.add_argument("--better", action="store_true",
                        help="also search those that the first kind of command named by the bug did not find")
    parser.add_argument("--no-build", action="store_true", help="take build-bank/ as it is")
    parser.add_argument("--production", default=f"{CHECKOUT}/build", help="the build without bugs")
    # What follows "run NAME" belongs to the program.
    running = sys.argv[1:2] == ["run"]
    options = parser.parse_intermixed_args(sys.argv[1:3] if running else None)
    bugs = plant.bugs()
    if options.verb == "table":
        with open(PAGE, "w") as f:
            f.write(page(bugs, found_read()))
        return 0
    if options.verb == "check":
        return check(bugs)
    if not options.no_build:
        build(bugs)
    if options.verb == "build":
        return 0
    if options.verb == "run":
        if len(sys.argv) < 4:
            parser.error("run NAME PROGRAM ARGUMENT…; the name 'none' wakes no bug")
        os.environ["TREATY_BUG"] = options.names[0] if options.names[0] != "none" else ""
        command = argv(shlex.join(sys.argv[3:]))
        os.execv(command[0], command)
    picked = chosen(bugs, options.names)
    began = time.monotonic()
    if options.verb == "replay":
        passed, failed = replay(picked, found_read())
        if not options.names:
            failed += same_as_production(options.production)
        for text in failed:
            print(f"failed: {text}")
        print(f"{len(picked)} bugs: {passed} runs as expected, {len(failed)} not, {time.monotonic() - began:.0f} s")
        return 1 if failed else 0
    found, missing = refresh(picked, bugs, options.cpu, options.fresh, options.verb == "search",
                             options.better)
    if options.verb == "search":
        print(page(picked, found))
    print(f"{len(picked) - len(missing)} of {len(picked)} found, {time.monotonic() - began:.0f} s"
          + (f"; not found: {', '.join(missing)}" if missing else ""))
    return 1 if missing else 0


def check(bugs):
    """Every bug can be planted, was found, and stands on the page; and the planter refuses what it has to refuse."""
    plant.plant(bugs, plant.read)
    faults = [f"{b.name} was never found: 'tests/bank/bank.py refresh {b.name}'"
              for b in bugs if b.name not in found_read()]
    try:
        with open(PAGE) as f:
            same = f.read() == page(bugs, found_read())
    except FileNotFoundError:
        same = False
    if not same:
        faults.append("docs/BUGS.md is not what the bank says: 'tests/bank/bank.py table' writes it")
    traps = {trap for b in bugs for trap in b.trap.replace(",", " ").split()}
    faults += [f"no bug takes out the rule of counter-example {n}" for n in range(1, COUNTER_EXAMPLES + 1)
               if f"C{n}" not in traps]
    faults += plant.misplanted()
    for fault in faults:
        print(fault)
    print(f"{len(bugs)} bugs, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BankError as e:
        say(f"bank: {e}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
