#!/usr/bin/env python3
# Does the explorer know the whole core? Two states that it takes for one must behave alike, so each field of the
# core's structs is either in its hash (the put_ functions of explore_host.c) or in its list of what is left out, with the
# reason. A field that somebody adds is in neither, and this test says so.
#
#     hashed.py TREE
import os
import re
import sys

# Where each struct is, and how the hash's functions speak of its members.
STRUCTS = {"Raft": ("agent/raft/internal.h", r"raft->(\w+)"), "Peer": ("agent/raft/internal.h", r"peer->(\w+)"),
           "Read": ("agent/raft/internal.h", r"reads\[i\]\.(\w+)"), "Ack": ("agent/raft/internal.h", r"raft->ack\.(\w+)"),
           "Batch": ("agent/raft/internal.h", r"batches\[i\]\.(\w+)"),
           "Ballot": ("agent/raft/internal.h", r"ballots\[i\]\.(\w+)"),
           "Inflight": ("agent/raft/internal.h", r"LIMIT_INFLIGHT_APPENDS\]\.(\w+)"),
           "LogView": ("agent/raft/logview.h", r"raft->log\.(\w+)"),
           "RaftMessage": ("agent/base/letter.h", r"m->(\w+)")}


def fields(text, struct):
    """The names of the members of a struct; those of an inner struct count as one."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    head = re.search(r"\bstruct " + struct + r" \{", text)
    depth, at = 1, head.end()
    body = ""
    while depth > 0:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 1 and text[at] != "}":
            body += text[at]
        at += 1
    names = []
    for declaration in body.split(";"):
        for part in declaration.split(","):
            name = re.search(r"(\w+)\s*(?:\[[^;]*\]\s*)*$", part.strip())
            if name:
                names.append(name.group(1))
    return names


def functions(text):
    """The bodies of what puts something into the hash."""
    return "\n".join(re.findall(r"^static [^\n]*?(?:put_\w+|local_number|letter_number)\([^;]*?\{\n.*?^\}", text, re.S | re.M))


def main(argv):
    if len(argv) != 2:
        print("usage: hashed.py TREE", file=sys.stderr)
        return 2
    def read(path):
        with open(os.path.join(argv[1], path), encoding="utf-8") as f:
            return f.read()
    explorer = read("tests/raft/explore.h") + read("tests/raft/explore_host.c")
    hashing = functions(explorer)
    left_out = {}
    listing = explorer.split("never hashed")[1].split("*/")[0]
    for struct, names in re.findall(r"^ \*\s+(\w+): ((?:\w+ )*\w+)(?:  |$)", listing, re.M):
        left_out.setdefault(struct, set()).update(names.split())
    faults, n = [], 0
    for struct, (path, spoken) in STRUCTS.items():
        known, hashed = fields(read(path), struct), set(re.findall(spoken, hashing))
        for name in known:
            n += 1
            if name not in hashed and name not in left_out.get(struct, set()):
                faults.append(f"{struct}.{name} steers the core, perhaps, but the explorer's hash does not hold it")
        for name in left_out.get(struct, set()) - set(known):
            faults.append(f"{struct}.{name} is left out of the explorer's hash, but there is no such field")
    if n < 80:
        faults.append(f"only {n} fields were found: this looks in the wrong place")
    for fault in faults:
        print(fault)
    print(f"{n} fields, {len(faults)} forgotten")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
