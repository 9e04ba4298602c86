# Three rounds of every deed that `./lab soak --faults` knows, while all hosts write and read.
#
# On a lab of their own: hosts are wiped, removed and join anew here.
import pytest

from conftest import NAME
from lab import cluster, nemesis, soak
from lab.fleet import Fleet


@pytest.fixture(scope="module")
def victims():
    fleet = Fleet(NAME + "n")
    try:
        hosts = fleet.up(3, disk="192M", fresh=False)
        cluster.form(hosts)
        yield hosts
    finally:
        fleet.down()


@pytest.mark.parametrize("kind", nemesis.KINDS)
def test_three_rounds_of(victims, kind):
    """Nothing lost, nothing done twice, nothing seen out of order, all trees equal, all hosts back by themselves."""
    done = soak.run_rounds(victims[0].fleet, victims, rounds=3, seed=None, kinds=(kind,), longest=3)
    assert not {k: done.sums[k] for k in ("lost", "twice", "divergent") if done.sums[k]}, done.sums
    assert done.sums["done"] > 30 and done.sums["digests"] == 3, done.sums
