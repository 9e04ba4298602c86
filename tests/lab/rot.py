# One flipped byte in a state directory, where it hurts: never in free space, so that each flip is a real one.
#
#     log     any byte of a record of any segment
#     tree    any byte of a page that is in use, in the tree's file
#     wal     any byte of a frame of its WAL
#     build   any byte of a tree that is being received
#
# Runs on a mounted disk, or on the running host's own directory: `python3 rot.py DIR KIND SEED` prints what it did. The
# time of the last change is put back, since rot does not announce itself.
import glob
import os
import random
import struct
import sys

FRAME = 32


class Nothing(Exception):
    """There is no byte of that kind now: a tree that was just fetched has no WAL yet."""


def records(data):
    """(offset, size, type) of every record of a segment, up to the zeros."""
    at = 0
    while at + FRAME <= len(data):
        size, kind = struct.unpack_from("<IB", data, at + 4)
        if kind == 0 or at + FRAME + size > len(data):
            return
        whole = FRAME + (size + 7) // 8 * 8
        yield at, whole, kind
        at += whole


def in_log(where, chance):
    places = []
    for path in sorted(glob.glob(f"{where}/log-0*.seg")):
        with open(path, "rb") as f:
            places += [(path, *record) for record in records(f.read())]
    if not places:
        raise Nothing(f"{where} holds no log")
    # Of each type as often as of any other: votes are rarer than entries, and matter as much.
    kind = chance.choice(sorted({place[3] for place in places}))
    path, at, size, kind = chance.choice([place for place in places if place[3] == kind])
    offset = at + chance.randrange(size)
    return path, offset, f"record of type {kind} at {at}, {size} bytes"


def in_file(pattern, page, chance):
    """A byte that is not zero, of a file that is made of pages."""
    paths = [p for p in sorted(glob.glob(pattern)) if os.path.getsize(p) > 0]
    if not paths:
        raise Nothing(f"there is no {pattern}")
    path = chance.choice(paths)
    with open(path, "rb") as f:
        data = f.read()
    used = [n for n in range(0, len(data), page) if any(data[n:n + page])]
    at = chance.choice(used)
    inside = [n for n in range(at, min(at + page, len(data))) if data[n]]
    return path, chance.choice(inside), f"page at {at}"


def place(where, kind, chance):
    if kind == "log":
        return in_log(where, chance)
    if kind == "tree":
        return in_file(f"{where}/tree-*.db", 4096, chance)
    if kind == "wal":
        return in_file(f"{where}/tree-*.db-wal", 4096 + 24, chance)
    return in_file(f"{where}/build-*.db*", 4096, chance)


def flip(where, kind, seed):
    chance = random.Random(seed)
    path, offset, what = place(where, kind, chance)
    status = os.stat(path)
    fd = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(fd, 1, offset)[0]
        os.pwrite(fd, bytes([byte ^ 1 << chance.randrange(8)]), offset)
        os.fsync(fd)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
    finally:
        os.close(fd)
    return f"{os.path.basename(path)} byte {offset} ({what})"


if __name__ == "__main__":
    try:
        print(flip(sys.argv[1], sys.argv[2], sys.argv[3]))
    except Nothing as nothing:
        print(f"nothing flipped, {nothing}")
