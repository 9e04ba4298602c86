# A tree that is not what it should be: rot that a checksum tells, and a difference that none can tell.
import ctypes
import glob
import os
import shutil
import sqlite3
import struct
import tempfile

import pytest

from lab import cluster
from lab.bus import Bus, BusError
from lab.proof import Proof
from lab.tools import until

STATE = "/var/lib/treaty"


class Sum(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def xxh3(data):
    function = ctypes.CDLL("libxxhash.so.0").XXH3_128bits
    function.restype, function.argtypes = Sum, [ctypes.c_char_p, ctypes.c_size_t]
    told = function(data, len(data))
    return told.high << 64 | told.low


def packed(number):
    return (number % (1 << 128)).to_bytes(16, "little")


def row_sum(id, head, value):
    """docs/DISK.md, "Tables", "Checksums and the digest"."""
    kind, owned, create_revision, version, previous = struct.unpack_from("<BBQQQ", head, 16)
    host, generation, n_tag = struct.unpack_from("<QQH", head, 42) if owned else (0, 0, 0)
    tag, key = (head[60:60 + n_tag], head[60 + n_tag:]) if owned else (b"", head[42:])
    whole = struct.pack("<QQQQQQBBHII", id, create_revision, version, previous, host, generation, kind, 0, len(tag), len(key),
                        len(value))
    return xxh3(whole + tag + key + value)


def meta_sum(meta):
    numbers = [meta[name] for name in ("applied", "applied_term", "revision", "floor", "cluster_usec", "n_entries",
                                       "conf_index", "epoch")]
    whole = packed(xxh3(struct.pack("<8Q", *numbers) + meta["cluster"] + struct.pack("<I", meta["min_version"]) + meta["conf"]))
    return packed(xxh3(bytes([0, 4]) + b"meta" + whole + meta["digest"] + struct.pack("<Q", meta["pruned"])))


def diverge(path, key, value):
    """Another value at `key`, in a file that is sound in all that it says of itself."""
    assert not os.path.exists(f"{path}-wal") or os.path.getsize(f"{path}-wal") == 0, "a clean stop leaves no WAL"
    with tempfile.TemporaryDirectory(prefix="treaty-other-") as to:  # SQLite would follow /proc/PID/root elsewhere
        shutil.copyfile(path, f"{to}/tree.db")
        diverge_copy(f"{to}/tree.db", key, value)
        shutil.copyfile(f"{to}/tree.db", path)


def diverge_copy(path, key, value):
    db = sqlite3.connect(path)
    db.row_factory = sqlite3.Row
    id, head, old = db.execute("SELECT * FROM rows WHERE id = (SELECT id FROM newest JOIN keys USING(n) WHERE key = ?)", (key,)).fetchone()
    meta = dict(db.execute("SELECT * FROM meta").fetchone())
    before, after = row_sum(id, head, old), row_sum(id, head, value)
    assert packed(before) == head[:16] and meta_sum(meta) == meta["sum"], "docs/DISK.md and the file say the same"
    meta["digest"] = packed(int.from_bytes(meta["digest"], "little") - before + after)
    db.execute("UPDATE rows SET value = ?, head = ? WHERE id = ?", (value, packed(after) + head[16:], id))
    db.execute("UPDATE meta SET digest = ?, sum = ?", (meta["digest"], meta_sum(meta)))
    db.commit()
    db.close()


def follower(hosts):
    lead = cluster.leader(hosts)
    return next(h for h in hosts if h.name != lead.name)


def healed(hosts, host, since, why):
    """The journal says what was found and whose tree came; all hosts hold the same then, digest and bytes."""
    def told():
        lines = host.journal("-u", "treatyd.service", f"--after-cursor={since}", check=False)
        return why in lines and "fetched again" in lines and "Took the tree of" in lines
    until(told, 150, lambda: f"{host.name} to tell: {host.journal('-u', 'treatyd.service', '-n', '8')}", step=1)
    cluster.wait_formed(hosts)
    Proof(hosts).compare_trees()


def cursor(host):
    return host.run("journalctl", "-n", "0", "--show-cursor", "--quiet").stdout.split("cursor: ")[1].strip()


def test_a_byte_flipped_in_a_tree(hosts):
    """Rot in the file of an agent that is stopped: it is found by reading, the host votes on and fetches another tree."""
    host = follower(hosts)
    with Bus(host) as bus:
        for n in range(200):
            bus.set(f"/heal/rot/{n}", f"value {n} " * 20)
    since = cursor(host)
    host.run("systemctl", "stop", "treatyd.service")
    path, = glob.glob(host.path(f"{STATE}/tree-*.db"))
    with open(path, "r+b") as f:
        data = f.read()
        at = data.index(b"value 77 value 77")  # in a value: SQLite itself sees nothing wrong
        f.seek(at)
        f.write(b"w")
        f.flush()
        os.fsync(f.fileno())
    host.run("systemctl", "start", "treatyd.service")
    with Bus(host) as bus:
        with pytest.raises(BusError):
            bus.get("/heal/rot/77")
    healed(hosts, host, since, "is rotten")
    with Bus(host) as bus:
        assert bus.get("/heal/rot/77")[0] == b"value 77 " * 20


def test_a_tree_that_says_something_else(hosts):
    """All checksums of the file are right and the content is not: only the other voters can tell."""
    host = follower(hosts)
    with Bus(host) as bus:
        bus.set("/heal/other", "what was written")
    since = cursor(host)
    host.run("systemctl", "stop", "treatyd.service")
    path, = glob.glob(host.path(f"{STATE}/tree-*.db"))
    diverge(path, "/heal/other", b"what was not so!")
    host.run("systemctl", "start", "treatyd.service")
    with Bus(host) as bus:
        until(lambda: bus.get("/heal/other"), 10, "the host to serve reads")
        assert bus.get("/heal/other")[0] == b"what was not so!", "it believes its file until it is compared"
        bus.set("/heal/changed", "so that there is something to compare")
    healed(hosts, host, since, "a majority of the voters has another tree than this host")
    with Bus(host) as bus:
        assert bus.get("/heal/other")[0] == b"what was written"
