# Speed, as far as it can be asserted on a machine that does other things too: orders of magnitude and counts, never rates.
# (Idle CPU, memory and the hundred writers are in test_agent.py; ./lab bench measures.)
import pytest

from lab import bench, cluster


@pytest.fixture
def agents(hosts):
    """(leader, a follower)"""
    leader, followers = bench.roles(hosts)
    return leader, followers[0]


def test_a_lone_write_waits_for_no_timer(agents):
    """A write takes a few wake-ups and two syncs. One that waits for a tick or a heartbeat somewhere takes 100 ms."""
    for agent in agents:
        alone = bench.load(agent, "set", 1, 2)
        assert alone["errors"] == 0 and alone["p50_usec"] < 50_000, f"at {agent.host.name}: {alone}"


def test_a_lone_linearizable_read_waits_for_no_timer(agents):
    for agent in agents:
        alone = bench.load(agent, "linearizable", 1, 2)
        assert alone["p50_usec"] < 50_000, f"at {agent.host.name}: {alone}"


def test_many_writers_cost_less_each(agents):
    """CPU time of an agent per write: what a batch shares, its writers share, and nothing grows with their number."""
    for agent in agents:
        spent = []
        for clients in (1, 64, 250):
            before = agent.cpu_usec
            seen = bench.load(agent, "set", clients, 2)
            assert seen["errors"] == 0, seen
            spent.append((agent.cpu_usec - before) / seen["all_answers"])
        alone, many, most = spent
        assert many < alone / 3 and most < alone / 3, f"at {agent.host.name}: {spent} us per write"


def test_an_idle_agent_sleeps(hosts):
    """Five heartbeats a second and little else wake it, and nothing goes to the disk."""
    cluster.wait_formed(hosts)
    leader, followers = bench.roles(hosts)
    agents = [leader] + followers
    bench.settle(agents)
    for agent, (_, wakes, written) in zip(agents, bench.idle(agents, 5)):
        assert wakes < 45, f"{agent.host.name} wakes {wakes:.0f} times a second"
        assert written == 0, f"{agent.host.name} writes {written} bytes in five idle seconds"
