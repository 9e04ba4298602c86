# The judge is judged: each lie that a cluster could tell is told to it once, and it has to notice.
import collections
import types

import pytest

from lab.clients import Read, Write
from lab.proof import Proof
from lab.tools import LabError

H1, H2 = (types.SimpleNamespace(name=name) for name in ("h1", "h2"))


@pytest.fixture
def proof():
    one = Proof.__new__(Proof)
    one.hosts, one.state, one.sums, one.verified = [H1, H2], {}, collections.Counter(), 10
    return one


def written(value, revision, began, ended, told="done", path="/soak/h1-0/0"):
    write = Write(path, value, H1)
    write.told, write.revision, write.began, write.ended = told, revision, began, ended
    return write


def read(revision, found, began=0.0, ended=1.0, linearizable=False):
    one = Read(H2, revision, found, began, linearizable)
    one.ended = ended
    return one


HISTORY = [("/soak/h1-0/0", b"a", 11), ("/soak/h1-0/1", b"b", 12), ("/soak/h1-0/0", b"c", 13)]
TOLD = [(b"a", 11, "/soak/h1-0/0"), (b"b", 12, "/soak/h1-0/1"), (b"c", 13, "/soak/h1-0/0")]


def test_a_true_history_passes(proof):
    writes = [written(value, at, at, at + 0.5, path=path) for value, at, path in TOLD]
    reads = [read(11, {"/soak/h1-0/0": 11, "/soak/h1-0/1": 0}), read(13, {"/soak/h1-0/0": 13, "/soak/h1-0/1": 12}),
             read(13, {"/soak/h1-0/0": 13}, began=14, ended=15, linearizable=True)]
    proof.judge_all(writes, HISTORY)
    proof.judge_order(writes, reads)
    proof.judge_reads(reads, HISTORY)
    assert proof.sums["writes"] == 3 and proof.sums["reads"] == 3 and not proof.sums["lost"] + proof.sums["twice"]


@pytest.mark.parametrize("history, what", [
    (HISTORY[:1] + HISTORY[2:], "LOST"),
    (HISTORY + [("/soak/h1-0/0", b"a", 14)], "TWICE"),
    (HISTORY[:2] + [("/soak/h1-0/0", b"c", 14)], "LOST"),
    (HISTORY + [("/soak/h1-0/0", b"z", 14)], "nobody wrote"),
])
def test_a_false_history(proof, history, what):
    with pytest.raises(LabError, match=what):
        proof.judge_all([written(value, at, at, at + 0.5, path=path) for value, at, path in TOLD], history)


def test_a_write_that_was_never_to_be(proof):
    with pytest.raises(LabError, match="AFTER NEVER"):
        proof.judge_all([written(b"a", None, 1, None, told="never")], HISTORY[:1])


def test_an_unanswered_write_may_be_there_once_or_not(proof):
    proof.judge_all([written(b"a", None, 1, None, told="nothing"), written(b"x", None, 1, None, told="nothing")], HISTORY[:1])


def test_writes_against_the_order_of_time(proof):
    with pytest.raises(LabError, match="although 13 was answered before"):
        proof.judge_order([written(b"c", 13, 1, 2), written(b"b", 12, 3, 4)], [])
    proof.judge_order([written(b"c", 13, 1, 4), written(b"b", 12, 3, 5)], [])


def test_linearizable_reads_that_are_too_old(proof):
    with pytest.raises(LabError, match="although 13 was answered before"):
        proof.judge_order([written(b"c", 13, 1, 2)], [read(12, {}, began=3, ended=4, linearizable=True)])
    with pytest.raises(LabError, match="although 13 was answered before"):
        proof.judge_order([], [read(13, {}, began=1, ended=2, linearizable=True), read(12, {}, began=3, ended=4, linearizable=True)])
    proof.judge_order([written(b"c", 13, 1, 2)], [read(12, {}, began=3, ended=4)])


@pytest.mark.parametrize("revision, found", [(12, {"/soak/h1-0/0": 13}), (13, {"/soak/h1-0/0": 11}), (12, {"/soak/h1-0/1": 0})])
def test_reads_of_a_state_that_never_was(proof, revision, found):
    with pytest.raises(LabError, match="where the history has"):
        proof.judge_reads([read(revision, found)], HISTORY)
