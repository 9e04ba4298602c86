#!/usr/bin/python3
"""Instructions per write and per read on each of three hosts, against what instructions.txt holds.

    count.py COUNT INSTRUCTIONS [--rewrite]       runs COUNT (count.c) under callgrind

Everything there runs in virtual time and one thread, so the same code on the same libraries gives the same numbers, to
the last one. More than TOLERANCE above what the file says is a failure: somebody made an operation dearer, and says so by
writing the file anew. What became cheaper is told, and is no failure."""
import os
import re
import shutil
import subprocess
import sys
import tempfile

TOLERANCE = 0.05
WORD = re.compile(r"(\w+?)_(leader|asked|other|calls)$")


def counted(program):
    """{(phase, role): instructions per question}, {phase: questions}"""
    with tempfile.TemporaryDirectory(prefix="count-") as directory:
        out = f"{directory}/callgrind.out"
        # meson has malloc fill what it gives, which is counted, too.
        plain = {k: v for k, v in os.environ.items() if k != "MALLOC_PERTURB_"}
        done = subprocess.run(["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}", program,
                               f"{directory}/state"], capture_output=True, text=True, env=plain)
        if done.returncode != 0:
            sys.exit(f"{program} ended with {done.returncode}: {done.stderr}")
        told = subprocess.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", out], capture_output=True,
                              text=True, check=True).stdout
    questions = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    found = {}
    for line in told.splitlines():
        match = re.match(r"\s*([\d,]+) .*count\.c:(\w+)", line)
        word = match and WORD.match(match.group(2))
        if word and word.group(1) in questions:
            found[word.group(1), word.group(2)] = round(int(match.group(1).replace(",", "")) / questions[word.group(1)])
    return found, questions


def kept(path):
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    return {(phase, role): int(n) for phase, role, n in lines}


def rewrite(path, found):
    with open(path, "w") as file:
        file.write("# Instructions per question, by what was asked, and on which host: the leader, the follower that was asked,\n"
                   "# all others together. Measured by count.py; `./lab bench --instructions` writes it anew.\n")
        for (phase, role), n in found.items():
            file.write(f"{phase} {role} {n}\n")


def compare(found, before):
    worse = 0
    for key in [*before, *(k for k in found if k not in before)]:
        was, now = before.get(key), found.get(key)
        share = now / was if was and now else None
        verdict = ("is new" if was is None else "is not there any more" if now is None else
                   "MORE THAN BEFORE" if share > 1 + TOLERANCE else "less: write it anew" if share < 1 - TOLERANCE else "")
        worse += was is None or now is None or share > 1 + TOLERANCE
        print(f"{key[0]:28}{key[1]:8}{was or 0:10,}{now or 0:10,}{f'{share:8.3f}' if share else '':8}  {verdict}")
    return worse


def main(program, path, *options):
    if not shutil.which("valgrind"):
        print("skipped: there is no valgrind here")
        return 77
    found, questions = counted(program)
    found = dict(sorted(found.items(), key=lambda item: (list(questions).index(item[0][0]), item[0][1])))
    if not found:
        sys.exit("callgrind saw none of the phases")
    worse = compare(found, kept(path))
    if "--rewrite" in options:
        rewrite(path, found)
        return 0
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
