#!/usr/bin/env python3
# Do the pages say what is? Not whether they are good, but whether they name what is there, all of it, and nothing else.
#
#     docs.py TREE TREATYCTL
#
# - every link between pages, and every path of this tree that a page names, leads somewhere
# - every manual page of ours that is referred to is there
# - treatyctl(1) has every command and option that the tool has, and no other commands
# - treaty.conf(5) and treaty.unit(5) have every key that is read, and no others
# - CONSENSUS.md has a row for each section of Raft used here, each counter-example and each trap, and each row names
#   stories and tests that exist; it names every story of the core
# - the head of agent/hall.h names every file of the hall, that of agent/tree/internal.h every file of the tree, and no others
# - org.treaty1(5) has every method and property of the XML and every error of ours, and no other errors
#
# Each check reports how many things it compared; one that found nothing to compare fails.
import glob
import os
import re
import subprocess
import sys

OWN_PAGES = re.compile(r"\*(treaty[\w.-]*|libtreaty|org\.treaty1)\*\((\d)\)")
PATH = re.compile(r"`((?:agent|client|dbus|docs|policy|tests|units)/[\w./*-]*\w)`")


class Checker:
    def __init__(self, tree):
        self.tree, self.faults, self.counts = tree, [], {}

    def read(self, path):
        with open(os.path.join(self.tree, path), encoding="utf-8") as f:
            return f.read()

    def see(self, what, held, fault):
        self.counts[what] = self.counts.get(what, 0) + 1
        if not held:
            self.faults.append(fault)

    def same(self, what, page, there, named):
        """Two sets of names: what there is, and what the page names."""
        for name in sorted(there | named):
            self.see(what, name in there and name in named,
                     f"{page}: {name} is not described" if name in there else f"{page}: there is no {name}")


def pages_lead_somewhere(c):
    pages = ["README.md"] + sorted(os.path.relpath(p, c.tree) for p in glob.glob(os.path.join(c.tree, "docs", "*.md")))
    for page in pages:
        text = c.read(page)
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            target = os.path.join(c.tree, os.path.dirname(page), link)
            c.see("links", os.path.exists(target), f"{page}: the link to {link} leads nowhere")
        for path in PATH.findall(text):
            c.see("paths", bool(glob.glob(os.path.join(c.tree, path))), f"{page}: there is no {path}")
    for manual in sorted(glob.glob(os.path.join(c.tree, "docs", "*.scd"))):
        for name, section in OWN_PAGES.findall(c.read(manual)):
            c.see("manuals", os.path.exists(os.path.join(c.tree, "docs", f"{name}.{section}.scd")),
                  f"{os.path.basename(manual)}: there is no {name}({section})")


def tool(c, treatyctl):
    def said(*argv):
        return subprocess.run([treatyctl, *argv, "--help"], capture_output=True, text=True, timeout=20,
                              check=True).stdout
    page = c.read("docs/treatyctl.1.scd")
    commands = page.split("# COMMANDS")[1].split("# OPTIONS")[0]
    verbs = set(re.findall(r"^  ([a-z][\w-]*)\s", said().split("\nOptions:")[0], re.M))
    c.same("commands", "treatyctl(1)", verbs, set(re.findall(r"^\*([a-z][\w-]*)[ *]", commands, re.M)))
    for verb in sorted(verbs):
        for option in sorted(set(re.findall(r"--[a-z][\w-]*", said(verb)))):
            c.see("options", re.search(rf"{option}\b", page), f"treatyctl(1): {option} of {verb} is not described")


def keys(c):
    read = set(re.findall(r'^\s*\{\s*"([A-Z]\w+)", set_', c.read("agent/config.c"), re.M))
    c.same("keys", "treaty.conf(5)", {k + "=" for k in read},
           set(re.findall(r"^\*([A-Z]\w+=)\*", c.read("docs/treaty.conf.5.scd"), re.M)))
    read = set(re.findall(r'^\s*\{\s*"([A-Z]\w+)", set_', c.read("units/section.c"), re.M))
    text = c.read("docs/treaty.unit.5.scd")
    named = {k for line in re.findall(r"^\*[A-Z]\w+=\*.*$", text, re.M) for k in re.findall(r"\*([A-Z]\w+=)\*", line)}
    c.same("keys", "treaty.unit(5)", {k + "=" for k in read}, named)


def bus(c):
    page = c.read("docs/org.treaty1.5.scd")
    for path in sorted(glob.glob(os.path.join(c.tree, "dbus", "*.xml"))):
        for name in re.findall(r'<(?:method|property|signal) name="(\w+)"', c.read(path)):
            c.see("methods", re.search(rf"\b{name}\b", page), f"org.treaty1(5): {name} is not described")
    errors = set(re.findall(r'ERROR_PREFIX "(\w+)"', c.read("dbus/error.h")))
    part = page.split("# ERRORS")[1].split("# ACCESS")[0]
    c.same("errors", "org.treaty1(5)", errors, set(re.findall(r"\*([A-Z]\w+)\*", part)))


SECTIONS = ["paper " + s for s in ("5.1", "5.2", "5.3", "5.4.1", "5.4.2", "5.5", "6", "7")] + [
    "thesis " + s for s in ("3.10", "4.1", "4.2.1", "4.2.2", "4.2.3", "4.3", "4.4", "6.2", "6.3", "6.4", "9.6", "10.2.1")]
ROOMS = "raft|hall|agent|log|tree|wire|base|peers|units|dbus|sim|hosts"


def is_shown(c, room, name):
    """`raft x` and `hall x` are stories, or x is a test: test_x.c, x.c, or a function in that room's tests."""
    directory = os.path.join(c.tree, "tests", "agent" if room == "hall" else room)
    if os.path.exists(os.path.join(directory, "stories", name + ".txt")):
        return True
    if room == "hall":
        return False
    if any(os.path.exists(os.path.join(directory, f)) for f in (f"test_{name}.c", f"{name}.c")):
        return True
    return any(re.search(rf"^(static void|def) {name}\(", c.read(os.path.relpath(path, c.tree)), re.M)
               for path in glob.glob(os.path.join(directory, "*.c")) + glob.glob(os.path.join(directory, "*.py")))


def consensus(c):
    page = c.read("docs/CONSENSUS.md")
    rows = {}
    for name, shown in re.findall(r"^\| ([\w. ]+?) \|.*\| ([^|]*) \|$", page, re.M):
        rows[name] = re.findall(rf"`({ROOMS}) (\w+)`", shown)
    for name in SECTIONS + [str(i) for i in range(1, 23)] + [f"R{i}" for i in range(1, 44)]:
        c.see("rules", rows.get(name), f"CONSENSUS.md: nothing is named that shows {name}")
    for room, name in sorted(set(re.findall(rf"`({ROOMS}) (\w+)`", page))):
        c.see("shown", is_shown(c, room, name), f"CONSENSUS.md: there is no {room} {name}")
    bank = set(re.findall(r"^\| ([\w-]+) \|", c.read("docs/BUGS.md"), re.M))
    for name in re.findall(r"`([\w-]+)`", " ".join(re.findall(r"^Bugs: (.*?\.)$", page, re.M | re.S))):
        c.see("bugs", name in bank, f"CONSENSUS.md: there is no bug {name}")
    for path in sorted(glob.glob(os.path.join(c.tree, "tests/raft/stories/*.txt"))):
        name = os.path.basename(path)[:-4]
        c.see("stories", f"`raft {name}`" in page, f"CONSENSUS.md: the story {name} of the core is not named")


ROOF = {"agent.c", "main.c", "loop.c", "config.c", "journal.c", "network.c"}


def parts(c):
    for header, besides in (("agent/hall.h", ROOF), ("agent/tree/internal.h", set())):
        there = {os.path.basename(p) for p in glob.glob(os.path.join(c.tree, os.path.dirname(header), "*.c"))} - besides
        c.same("parts", header, there, set(re.findall(r"\b(\w+\.c)\b", c.read(header).split("*/")[0])))


def stories_run(c):
    """A story that no test tells is forgotten."""
    for room in ("raft", "agent"):
        told = c.read(f"tests/{room}/meson.build")
        for path in sorted(glob.glob(os.path.join(c.tree, f"tests/{room}/stories/*.txt"))):
            name = os.path.basename(path)[:-4]
            c.see("told", f"'{name}'" in told, f"tests/{room}/meson.build: the story {name} is no test")


def main(argv):
    if len(argv) != 3:
        print("usage: docs.py TREE TREATYCTL", file=sys.stderr)
        return 2
    c = Checker(argv[1])
    pages_lead_somewhere(c)
    tool(c, argv[2])
    keys(c)
    bus(c)
    consensus(c)
    parts(c)
    stories_run(c)
    for what in ("links", "paths", "manuals", "commands", "options", "keys", "methods", "errors", "rules", "shown",
                 "stories", "bugs", "parts", "told"):
        if not c.counts.get(what):
            c.faults.append(f"docs.py found no {what} to compare: it looks in the wrong place")
    for fault in c.faults:
        print(fault)
    print(", ".join(f"{n} {what}" for what, n in c.counts.items()) + f": {len(c.faults)} wrong")
    return 1 if c.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
