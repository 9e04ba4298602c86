# What breaks, and what must hold meanwhile: hosts die, power fails, links are cut, agents are frozen.
import threading
import time

import pytest

from lab import cluster, soak
from lab.bus import Bus, BusError
from lab.tools import until


def others(hosts, one):
    return [h for h in hosts if h is not one]


def leads(hosts):
    one = cluster.leader(hosts)
    return next(h for h in hosts if h.name == one.name)


def test_the_leaders_host_dies(hosts):
    """kill -9 of the whole host: a write on another succeeds within 3 s; the dead one comes back and holds everything."""
    dead = leads(hosts)
    one, two = others(hosts, dead)
    with Bus(one) as bus, Bus(two) as far:
        before = bus.set("/dies/before", "x")
        dead.fleet.crash([dead])
        began = time.monotonic()
        during = bus.set("/dies/during", "written without it", timeout=10)
        took = time.monotonic() - began
        assert took < 3, f"the write took {took:.1f} s"
        assert far.call("Tree.Get", "/dies/during", 0, {"min-revision": ("t", during)})[1] == during
    dead.fleet.boot([dead])
    cluster.wait_formed(hosts)
    with Bus(dead) as bus:
        assert bus.call("Tree.Get", "/dies/during", 0, {"min-revision": ("t", during)})[:2] == (b"written without it", during)
        assert bus.get("/dies/before")[1] == before


def test_a_leader_that_is_stopped_hands_over_first(hosts):
    """A planned stop is no failure: somebody else leads before the agent is gone, and writing hardly pauses."""
    lead = leads(hosts)
    rest = others(hosts, lead)
    took, stop = [], threading.Event()

    def write():
        with Bus(rest[0]) as bus:
            while not stop.is_set():
                began = time.monotonic()
                bus.set("/planned", "x", timeout=10)
                took.append(time.monotonic() - began)

    writer = threading.Thread(target=write, daemon=True)
    with Bus(rest[1]) as bus:
        term = bus.property("Cluster", "Term")
        writer.start()
        until(lambda: len(took) > 10, 10, "the first writes")
        lead.run("systemctl", "stop", "treatyd.service")
        assert bus.property("Cluster", "Leader") in [h.name for h in rest]
        # Exactly one election: it was given, not fought for.
        assert bus.property("Cluster", "Term") == term + 1
    written = len(took)
    until(lambda: len(took) > written + 10, 10, "more writes")
    stop.set()
    writer.join(20)
    assert not writer.is_alive() and max(took) < 1.5, f"a write took {max(took):.2f} s"


@pytest.mark.parametrize("how", ["crash", "powercut"])
def test_all_hosts_die_at_once(hosts, how):
    """Nothing acknowledged is gone; also when everything that was not synced is."""
    fleet = hosts[0].fleet
    told, stop = {}, threading.Event()

    def write(host):
        try:
            with Bus(host) as bus:
                n = 0
                while not stop.is_set():
                    path, value = f"/all/{how}/{host.name}/{n % 50}", f"{n}".encode()
                    told[path] = (value, bus.set(path, value))
                    n += 1
        except Exception:
            pass  # the host is gone, and with it the last write

    writers = [threading.Thread(target=write, args=(h,), daemon=True) for h in hosts]
    for writer in writers:
        writer.start()
    time.sleep(1)
    getattr(fleet, how)(hosts)
    stop.set()
    for writer in writers:
        writer.join(30)
        assert not writer.is_alive()
    assert len(told) > 10
    fleet.boot(hosts)
    cluster.wait_formed(hosts)
    for host in hosts:
        with Bus(host) as bus:
            bus.call("Tree.Get", next(iter(told)), 1, {})
            for path, (value, revision) in told.items():
                found, at, _ = bus.get(path)
                # A later write of the same key may have been applied although nobody lived to hear of it.
                assert at > revision or (found, at) == (value, revision), path


def test_the_minority_side_of_a_cut(hosts):
    """Writes there fail clearly, reads and units go on, and the rest of the cluster does not care."""
    fleet = hosts[0].fleet
    lone = leads(hosts)
    rest = others(hosts, lone)
    lone.write("/etc/systemd/system/steady.service",
               "[Service]\nExecStart=sleep infinity\n[X-Treaty]\nWatch=/cut\nOnChange=restart\nService=steady\nPort=1\n")
    lone.run("systemctl", "daemon-reload")
    lone.run("systemctl", "start", "steady.service")
    with Bus(lone) as bus, Bus(rest[0]) as far:
        kept = bus.set("/kept/here", "known before the cut")
        time.sleep(3)
        pid = lone.run("systemctl", "show", "--property=MainPID", "--value", "steady.service").stdout
        fleet.cut(lone.name)
        assert far.set("/cut/far", "the majority writes", timeout=10) > kept
        time.sleep(3)
        began = time.monotonic()
        with pytest.raises(BusError) as told:
            bus.set("/cut/lone", "never", timeout=10)
        assert told.value.name == "NoQuorum" and time.monotonic() - began < 10.5, told.value
        assert bus.get("/kept/here")[1] == kept
        assert bus.get("/cut/far") is None
        with pytest.raises(BusError) as told:
            bus.call("Tree.Get", "/kept/here", 1, {"timeout-usec": ("t", 2_000_000)})
        assert told.value.name in ("NoQuorum", "Timeout")
        failed = lone.run("treatyctl", "set", "/cut/lone", "never", check=False)
        assert failed.returncode == 6 and failed.stderr
        assert bus.property("Cluster", "Quorate") is False
        assert lone.run("systemctl", "show", "--property=MainPID", "--value", "steady.service").stdout == pid
        # A service can even be started there.
        lone.run("systemctl", "restart", "steady.service")
        fleet.heal()
        until(lambda: bus.get("/cut/far"), 10, "the cut-off host to catch up")
        assert bus.get("/cut/lone") is None and far.get("/cut/lone") is None
        assert bus.set("/cut/healed", "x", timeout=10) > 0
    lone.run("systemctl", "stop", "steady.service")
    lone.run("rm", "/etc/systemd/system/steady.service")
    lone.run("systemctl", "daemon-reload")


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_writes_in_flight_at_a_cut(hosts, who):
    """They end as NoQuorum or Unknown, and what Outcome says after healing is what happened."""
    fleet = hosts[0].fleet
    lone = leads(hosts) if who == "leader" else others(hosts, leads(hosts))[0]
    rest = others(hosts, lone)
    with Bus(lone, private=True) as bus:
        sent = {}
        done, fates = {}, {}
        for n in range(50):
            if n == 25:
                fleet.cut(lone.name)
            value = f"{who} {n}".encode()
            sent[bus.send("Tree.Set", f"/flight/{who}/{n}", value, 0, {"timeout-usec": ("t", 5_000_000)})] = (n, value)
        for _ in sent:
            serial, answer = bus.collect(30)
            n, value = sent[serial]
            if isinstance(answer, BusError):
                assert answer.name in ("NoQuorum", "Unknown"), answer
                fates[n] = answer
            else:
                done[n] = answer
        assert fates, "the cut came too late to test anything"
        fleet.heal()
        cluster.wait_formed(hosts)
        with Bus(rest[0]) as far:
            bus.call("Tree.Get", "/flight", 1, {}) if far.get("/flight") else None
            assert bus.set("/flight/end", "x", timeout=10) > 0
            for side in (bus, far):
                side.call("Tree.Get", "/flight/end", 1, {})
                for n, revision in done.items():
                    assert side.get(f"/flight/{who}/{n}")[1] == revision
                for n, fate in fates.items():
                    found = side.get(f"/flight/{who}/{n}")
                    if fate.name == "NoQuorum":
                        assert found is None
                        continue

                    def definite():
                        state = side.call("Tree.Outcome", fate.request)
                        return state if state[0] in ("applied", "never") else None

                    state, revision = until(definite, 15, f"the outcome of {fate.request}")
                    assert (found is None) if state == "never" else (found[1] == revision and found[2]["version"] == 1)
    # What was once definite stays so when the process that asked is gone.
    answers = {}
    for again in (False, True):
        with Bus(lone) as bus:
            for fate in fates.values():
                if fate.name == "Unknown":
                    answers.setdefault(fate.request, set()).add(bus.call("Tree.Outcome", fate.request))
        if not again:
            lone.run("systemctl", "restart", "treatyd.service")
            cluster.wait_formed(hosts)
    assert all(len(told) == 1 for told in answers.values()), answers
    with Bus(lone) as bus:
        bus.call("Tree.Delete", "/flight", 1, {})


def test_a_leader_nobody_hears_and_one_who_hears_nobody(hosts):
    """One-way cuts: writing goes on from the other hosts within seconds either way."""
    fleet = hosts[0].fleet
    for deaf in (False, True):
        cluster.wait_formed(hosts)
        lone = leads(hosts)
        rest = others(hosts, lone)
        for host in rest:
            fleet.cut(*((host.name, lone.name) if deaf else (lone.name, host.name)), one_way=True)
        with Bus(rest[0]) as bus:
            began = time.monotonic()
            until(lambda: accepted(bus, f"/oneway/{deaf}"), 10, "a write beside a half-cut leader", step=0.05)
            assert time.monotonic() - began < 6
        fleet.heal()
    cluster.wait_formed(hosts)


def accepted(bus, path):
    try:
        return bus.set(path, "x", timeout=3)
    except BusError as e:
        assert e.name in ("NoQuorum", "Unknown", "Busy"), e
        return None


def test_a_frozen_leader_is_replaced_and_does_not_lie_when_it_thaws(hosts):
    lone = leads(hosts)
    rest = others(hosts, lone)
    with Bus(lone) as frozen, Bus(rest[0]) as bus:
        frozen.set("/frozen/value", "old")
        lone.pause()
        began = time.monotonic()
        new = until(lambda: accepted(bus, "/frozen/value"), 10, "a write without the frozen leader")
        assert time.monotonic() - began < 4
        read = frozen.send("Tree.Get", "/frozen/value", 1, {})
        lone.resume()
        serial, answer = frozen.collect(15)
        assert serial == read
        if not isinstance(answer, BusError):
            assert answer[1] >= new, "a linearizable read went back in time"


def test_all_agents_killed(hosts):
    with Bus(hosts[0]) as bus:
        revision = bus.set("/agents/killed", "x")
    for host in hosts:
        host.kill_unit("treatyd.service")
    until(lambda: all(cluster.agent_answers(h) for h in hosts), 15, "systemd to restart the agents")
    cluster.wait_formed(hosts)
    for host in hosts:
        with Bus(host) as bus:
            assert bus.call("Tree.Get", "/agents/killed", 1, {})[1] == revision


def test_a_small_soak(hosts):
    """Five rounds of ./lab soak: agents and hosts are killed at random while all hosts write."""
    done = soak.run_rounds(hosts[0].fleet, hosts, rounds=5, seed=None)
    assert done.sums["lost"] == 0 and done.sums["twice"] == 0 and done.sums["done"] > 50, done.sums
