#!/usr/bin/env python3
# Do the rooms keep their doors? tests/doors.txt is the table; this holds the sources, and for the rooms that touch
# nothing the compiled archives, against it.
#
#     doors.py TREE                          every #include of agent, dbus, policy, units, client
#     doors.py TREE --imports ROOM=ARCHIVE…  every symbol that the archives need (nm)
#     doors.py TREE --self-test OTHER        can it fail? Planted faults must be found; OTHER is an archive that does IO
#
# Only the standard library, so that it runs wherever meson does.
import fnmatch
import os
import re
import subprocess
import sys
import tempfile

PLACES = ("agent", "dbus", "policy", "units", "client")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
# What a compiler adds when it is asked to look closer, and other names of one function.
INSTRUMENTS = ("__asan_*", "__ubsan_*", "__tsan_*", "__sanitizer_*", "__gcov_*", "__llvm_*", "__sancov_*", "__start___san*",
               "__stop___san*", "llvm_gcov_*")
OTHER_NAMES = (re.compile(r"^__(\w+)_chk$"), re.compile(r"^__isoc\d+_(\w+)$"))


class TableError(Exception):
    pass


class Room:
    def __init__(self, name):
        self.name, self.files, self.opens, self.system, self.imports = name, [], [], [], None


def read_table(text):
    """The rooms in order of the table; a table that contradicts itself is refused."""
    sets, rooms, room = {}, {}, None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        key, rest = words[0], words[1:]
        where = f"doors.txt:{number}"
        if key == "set" and rest:
            sets.setdefault(rest[0], []).extend(unfold(rest[1:], sets, where))
        elif key == "room" and len(rest) == 1 and rest[0] not in rooms:
            room = rooms[rest[0]] = Room(rest[0])
        elif key == "files" and room:
            room.files += rest
        elif key == "opens" and room:
            unknown = [r for r in rest if r not in rooms and not re.search(rf"^room {re.escape(r)}$", text, re.M)]
            if unknown:
                raise TableError(f"{where}: there is no room {', '.join(unknown)}")
            room.opens += rest
        elif key == "system" and room:
            room.system += unfold(rest, sets, where)
        elif key == "imports" and room:
            room.imports = (room.imports or []) + unfold(rest, sets, where)
        else:
            raise TableError(f"{where}: '{line.strip()}' cannot be read")
    for start in rooms:
        if start in reachable(start, rooms):
            raise TableError(f"doors.txt: one can walk in a circle from room {start}")
    return rooms


def unfold(words, sets, where):
    result = []
    for word in words:
        if word.startswith("@") and word[1:] not in sets:
            raise TableError(f"{where}: there is no set {word[1:]}")
        result += sets[word[1:]] if word.startswith("@") else [word]
    return result


def reachable(start, rooms):
    seen, todo = set(), list(rooms[start].opens)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += rooms[name].opens
    return seen


def matches(name, patterns):
    """A star does not cross a slash, so that agent/* is not agent/raft/x.c."""
    return any(fnmatch.fnmatchcase(name, p) and name.count("/") == p.count("/") for p in patterns)


def room_of(path, rooms):
    return next((r for r in rooms.values() if matches(path, r.files)), None)


def sources(tree):
    for place in PLACES:
        for folder, _, names in os.walk(os.path.join(tree, place)):
            for name in sorted(names):
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(folder, name), tree)


def resolve(including, name, tree):
    """The file behind #include "name": beside the including one, else from the top. Generated ones (protoc-c's) are where
    their source is."""
    folder = os.path.dirname(including)
    for path in (os.path.normpath(os.path.join(folder, name)), os.path.normpath(name)):
        if os.path.isfile(os.path.join(tree, path)):
            return path
    proto = os.path.join(folder, name.replace(".pb-c.h", ".proto"))
    return os.path.join(folder, name) if name.endswith(".pb-c.h") and os.path.isfile(os.path.join(tree, proto)) else None


def check_includes(tree, rooms):
    faults, count = [], 0
    for path in sources(tree):
        room = room_of(path, rooms)
        if not room:
            faults.append(f"{path}: belongs to no room")
            continue
        with open(os.path.join(tree, path), encoding="utf-8") as f:
            text = f.read()
        for match in INCLUDE.finditer(text):
            count += 1
            where = f"{path}:{text.count(chr(10), 0, match.start(2)) + 1}"
            fault = judge(room, path, match.group(1) == "<", match.group(2), tree, rooms)
            if fault:
                faults.append(f"{where}: {fault}")
    return faults, count


def judge(room, path, system, name, tree, rooms):
    if system:
        return None if matches(name, room.system) else f"room {room.name} has no door to <{name}>"
    target = resolve(path, name, tree)
    if not target:
        return f'"{name}" is nowhere in the sources'
    other = room_of(target, rooms)
    if not other:
        return f'"{name}" belongs to no room'
    if other is room or other.name in room.opens:
        return None
    return f'room {room.name} has no door to room {other.name} ("{name}")'


def symbols(archive):
    """What the archive needs from elsewhere, and what it has, as (needs: symbol -> first object, has)."""
    done = subprocess.run(["nm", "-A", "--", archive], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise TableError(f"nm {archive}: {done.stderr.strip()}")
    needs, has = {}, set()
    for line in done.stdout.splitlines():
        match = re.match(r"^(.*):\s*[0-9a-f]*\s+(\w)\s+(\S+)$", line)
        if not match:
            continue
        if match.group(2) in "Uwv":
            needs.setdefault(match.group(3), match.group(1).split(":")[-1])
        else:
            has.add(match.group(3))
    if not has:
        raise TableError(f"{archive}: nm finds no symbols there")
    return {s: o for s, o in needs.items() if s not in has}, has


def check_imports(rooms, archives):
    """archives: room -> archive. Every room that says what it imports must be there."""
    faults, count = [], 0
    for name in rooms:
        if rooms[name].imports is not None and name not in archives:
            faults.append(f"room {name} touches nothing, but no archive was given to prove it")
    tables = {name: symbols(archive) for name, archive in archives.items()}
    for name, (needs, _) in tables.items():
        room = rooms[name]
        if room.imports is None:
            raise TableError(f"room {name} says nothing about its imports")
        lent = set().union(*(tables[r][1] for r in room.opens if r in tables))
        for symbol, where in sorted(needs.items()):
            count += 1
            if symbol in lent or allowed(symbol, room.imports):
                continue
            faults.append(f"{where}: room {name} may not need '{symbol}'")
    return faults, count


def allowed(symbol, patterns):
    for other in OTHER_NAMES:
        symbol = other.sub(r"\1", symbol)
    return any(fnmatch.fnmatchcase(symbol, p) for p in (*patterns, *INSTRUMENTS))


# ---- can it fail? ----

PLANTED = """\
set plain string.h
room ground
files agent/base/*
opens
system @plain
room core
files agent/core/*
opens ground
system @plain
imports memcpy
room hall
files agent/*
opens ground core
system @plain unistd.h
"""

FILES = {
    "agent/base/a.h": "#include <string.h>\n",
    "agent/core/core.h": '#include "../base/a.h"\n',
    "agent/core/core.c": '#include "core.h"\n#include <string.h>\n',
    "agent/hall.c": '#include "core/core.h"\n#include <unistd.h>\n',
}

FAULTS = [
    ("agent/core/core.c", '#include "../hall.c"\n', "agent/core/core.c:1: room core has no door to room hall"),
    ("agent/core/core.c", '\n#  include <unistd.h>\n', "agent/core/core.c:2: room core has no door to <unistd.h>"),
    ("agent/core/core.c", '#include <sys/string.h>\n', "has no door to <sys/string.h>"),
    ("agent/base/a.h", '#include "agent/core/core.h"\n', "room ground has no door to room core"),
    ("agent/hall.c", '#include "elsewhere.h"\n', "is nowhere in the sources"),
    ("agent/attic/x.c", "\n", "agent/attic/x.c: belongs to no room"),
]


def self_test(other):
    """Every fault above is found, alone; what is right is let be; a room that does IO is not taken for one that does not."""
    rooms = read_table(PLANTED)
    for path, text, expected in [("agent/hall.c", FILES["agent/hall.c"], None), *FAULTS]:
        with tempfile.TemporaryDirectory() as tree:
            for name, content in {**FILES, path: text}.items():
                os.makedirs(os.path.dirname(os.path.join(tree, name)), exist_ok=True)
                with open(os.path.join(tree, name), "w", encoding="utf-8") as f:
                    f.write(content)
            faults, count = check_includes(tree, rooms)
        assert count > 0
        assert len(faults) == (1 if expected else 0), f"{path} {text!r}: {faults}"
        assert not expected or expected in faults[0], f"{faults[0]} instead of {expected}"
    for wrong in ("room a\nopens b\n", "room a\nopens b\nroom b\nopens a\n", "room a\nsystem @none\n", "door a\n",
                  "room a\nroom a\n"):
        try:
            read_table(wrong)
            raise SystemExit(f"doors.py: took the table {wrong!r}")
        except TableError:
            pass
    assert allowed("__memcpy_chk", ["memcpy"]) and allowed("__asan_load4", []) and not allowed("write", ["wr", "writev"])
    faults, _ = check_imports(rooms, {"core": other})
    found = {fault.rsplit("'", 2)[1] for fault in faults}
    assert {"fdatasync", "pthread_create", "clock_gettime"} <= found, f"of an archive with IO only this was seen: {found}"
    print(f"{len(FAULTS)} planted includes and {len(found)} planted imports were found")


def main(argv):
    if len(argv) < 2:
        print(__doc__ or "usage: doors.py TREE [--imports ROOM=ARCHIVE… | --self-test ARCHIVE]", file=sys.stderr)
        return 2
    if argv[2:3] == ["--self-test"]:
        self_test(argv[3])
        return 0
    with open(os.path.join(argv[1], "tests", "doors.txt"), encoding="utf-8") as f:
        rooms = read_table(f.read())
    if argv[2:3] == ["--imports"]:
        faults, count = check_imports(rooms, dict(a.split("=", 1) for a in argv[3:]))
        what = "imports"
    else:
        faults, count = check_includes(argv[1], rooms)
        what = "includes"
    for fault in faults:
        print(fault)
    print(f"{count} {what}, {len(faults)} through a wall" + ("; tests/doors.txt is the table" if faults else ""))
    return 1 if faults or count == 0 else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv))
    except TableError as e:
        print(f"doors.py: {e}", file=sys.stderr)
        sys.exit(1)
