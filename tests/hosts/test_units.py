# Units react and are registered. The units here are what a user would write; what they did is read from their journals.
import json
import os
import time

import pytest

from lab import cluster
from lab.bus import DELETE, Bus, BusError
from lab.tools import until
from test_tree import main_pid, refused

# A service that says in its journal what happens to it.
WEB = """[Unit]
Description=A web server, in spirit

[Service]
ExecStart=sleep infinity
ExecReload=echo reloaded

[X-Treaty]
Service=web
Port=8080
Property=path=/healthz

[Install]
WantedBy=multi-user.target
"""
READER = "[Service]\nExecStart=sleep infinity\nExecReload=echo reloaded\n"
READER_DROPIN = "[X-Treaty]\nWatch=/config/web\nOnChange=reload-or-restart\n"
JOB = "[Service]\nType=oneshot\nExecStart=echo started\n[X-Treaty]\nWatch=/config/web\nOnChange=start\n"
BROKEN = "[Service]\nType=oneshot\nExecStart=echo started\n[X-Treaty]\nWatch=/config/web\nOnChange=explode\n"
RELATIVE = "[Service]\nType=oneshot\nExecStart=echo started\n[X-Treaty]\nWatch=config/web\nOnChange=start\n"

SESSION_TIMEOUT = 5


@pytest.fixture(scope="module")
def units(fleet):
    h1, h2, h3 = fleet.hosts[:3]
    fleet.boot([h for h in (h1, h2, h3) if not h.running])
    for host in (h1, h2, h3):
        host.write("/etc/systemd/system/web.service", WEB)
    h3.write("/etc/systemd/system/reader.service", READER)
    h3.write("/etc/systemd/system/reader.service.d/treaty.conf", READER_DROPIN)
    h1.write("/etc/systemd/system/job.service", JOB)
    for host in (h1, h2, h3):
        host.run("systemctl", "daemon-reload")
        host.run("systemctl", "enable", "--now", "--quiet", "web.service")
    h3.run("systemctl", "start", "reader.service")
    yield
    for host in fleet.hosts[:3]:
        if host.state == "running":
            host.run("systemctl", "disable", "--now", "--quiet", "web.service")


def count(host, unit, text):
    return host.journal("-u", unit, "-o", "cat").count(text)


def instances(host):
    with Bus(host) as bus:
        listed, _ = bus.call("Services.List", "web", 0, "")
    return {(name, where, port) for name, where, _, port, *_ in listed}


ALL = {("web", "h1", 8080), ("web", "h2", 8080), ("web", "h3", 8080)}


def wait_instances(hosts, wanted, timeout=10):
    for host in hosts:
        until(lambda: instances(host) == wanted, timeout, lambda: f"{host.name} to list {wanted}, not {instances(host)}")


# ---- Reacting ----


def test_a_change_reloads_one_unit_and_starts_another(hosts, units):
    h1, h2, h3 = hosts
    until(lambda: "reader.service" in h3.run("treatyctl", "triggers").stdout, 10, "the trigger on h3")
    until(lambda: "job.service" in h1.run("treatyctl", "triggers").stdout, 10, "the trigger on h1")
    time.sleep(1)
    pid = main_pid(h3, "reader.service")
    reloads, starts = count(h3, "reader.service", "reloaded"), count(h1, "job.service", "started")
    h2.run("treatyctl", "set", "/config/web/port", f"{9000 + reloads}")
    until(lambda: count(h3, "reader.service", "reloaded") > reloads, 10, "the reload in the unit's journal")
    until(lambda: count(h1, "job.service", "started") > starts, 10, "the start in the unit's journal")
    assert main_pid(h3, "reader.service") == pid, "a reload must not restart"


def test_a_burst_acts_after_its_last_change_and_seldom(hosts, units):
    h1, _, h3 = hosts
    reloads = count(h3, "reader.service", "reloaded")
    with Bus(h1) as bus:
        for n in range(100):
            bus.set("/config/web/port", f"{n}")
    until(lambda: count(h3, "reader.service", "reloaded") > reloads, 10, "the reload")
    time.sleep(3)
    assert 1 <= count(h3, "reader.service", "reloaded") - reloads <= 5
    assert h3.run("systemctl", "is-failed", "reader.service", check=False).stdout.strip() != "failed"


def test_what_is_not_watched_does_not_act(hosts, units):
    h1, _, h3 = hosts
    time.sleep(2)
    reloads, starts = count(h3, "reader.service", "reloaded"), count(h1, "job.service", "started")
    h1.run("treatyctl", "set", "/config/website", "a neighbour")
    h1.run("treatyctl", "set", "/config", "the parent")
    time.sleep(3)
    assert (count(h3, "reader.service", "reloaded"), count(h1, "job.service", "started")) == (reloads, starts)


def test_a_change_while_the_helper_or_the_host_was_away_is_caught_up(hosts, units):
    h1, h2, h3 = hosts
    fleet = h1.fleet
    time.sleep(2)
    starts = count(h1, "job.service", "started")
    h1.run("systemctl", "stop", "treaty-units.service")
    h2.run("treatyctl", "set", "/config/web/port", "while the helper was away")
    time.sleep(0.5)
    assert count(h1, "job.service", "started") == starts
    h1.run("systemctl", "start", "treaty-units.service")
    until(lambda: count(h1, "job.service", "started") == starts + 1, 10, "the change to be caught up")
    fleet.crash([h1])
    until(lambda: h2.run("treatyctl", "set", "/config/web/port", "while h1 was off", check=False).returncode == 0, 15, "a write")
    fleet.boot([h1])
    until(lambda: count(h1, "job.service", "started") == starts + 2, 20, "the change to be caught up at boot")
    # And nothing is done twice for it.
    h1.run("systemctl", "restart", "treaty-units.service")
    h1.run("systemctl", "restart", "treatyd.service")
    time.sleep(3)
    assert count(h1, "job.service", "started") == starts + 2


def test_a_broken_section_is_named_and_harms_no_other(hosts, units):
    h1, h2, _ = hosts
    h1.write("/etc/systemd/system/broken.service", BROKEN)
    h1.write("/etc/systemd/system/relative.service", RELATIVE)
    h1.run("systemctl", "daemon-reload")
    try:
        def shown():
            rows = json.loads(h1.run("treatyctl", "triggers", "--json=short").stdout)
            return {r["unit"]: r for r in rows} if len(rows) >= 3 else None

        rows = until(lambda: (lambda r: r if r and {"broken.service", "relative.service"} <= set(r) else None)(shown()), 10,
                     "the broken units in treatyctl triggers")
        for unit, word in (("broken.service", "explode"), ("relative.service", "config/web")):
            assert rows[unit]["state"] == "broken" and word in rows[unit]["message"]
            told = h1.journal("-u", "treaty-units.service")
            assert f"/etc/systemd/system/{unit}:" in told and word in told
        starts = count(h1, "job.service", "started")
        h2.run("treatyctl", "set", "/config/web/port", "others work")
        until(lambda: count(h1, "job.service", "started") > starts, 10, "the unit whose section is whole")
        assert count(h1, "broken.service", "started") == 0 and count(h1, "relative.service", "started") == 0
    finally:
        h1.run("rm", "-f", "/etc/systemd/system/broken.service", "/etc/systemd/system/relative.service")
        h1.run("systemctl", "daemon-reload")


# ---- Being registered ----


def test_every_instance_is_listed_everywhere(hosts, units):
    wait_instances(hosts, ALL)
    shown = json.loads(hosts[1].run("treatyctl", "services", "--json=short").stdout)
    assert {(s["name"], s["host"], s["port"]) for s in shown} == ALL
    with Bus(hosts[2]) as bus:
        ends = bus.call("Services.Resolve", "web", 0)
        assert {(host, port) for host, _, port, *_ in ends} == {("h1", 8080), ("h2", 8080), ("h3", 8080)}
        refused("NoSuchService", bus, "Services.Resolve", "nothing", 0)
        entry = json.loads(bus.get("/services/web/h1:8080")[0])
        assert entry["host"] == "h1" and entry["port"] == 8080 and entry["properties"] == {"path": "/healthz"}


def test_stopping_a_unit_removes_exactly_its_instance_at_once(hosts, units):
    wait_instances(hosts, ALL)
    with Bus(hosts[0]) as bus, bus.watch("/services/web") as watch:
        began = time.monotonic()
        hosts[1].run("systemctl", "stop", "web.service")
        gone = watch.next(5)
        took = time.monotonic() - began
        assert (gone.kind, gone.path) == (DELETE, "/services/web/h2:8080") and took < 1
        hosts[1].run("systemctl", "start", "web.service")
        assert watch.next(5).path == "/services/web/h2:8080"
        assert watch.until_quiet(1) == []
    wait_instances(hosts, ALL)


def test_a_dead_host_loses_its_instances_after_the_session_timeout(hosts, units):
    wait_instances(hosts, ALL)
    h1, h2, h3 = hosts
    dead = next(h for h in hosts if h is not cluster.leader(hosts))
    alive = [h for h in hosts if h is not dead]
    began = time.monotonic()
    dead.fleet.crash([dead])
    left = ALL - {("web", dead.name, 8080)}
    until(lambda: instances(alive[0]) == left, SESSION_TIMEOUT + 4, "the instance of the dead host to go")
    assert time.monotonic() - began > SESSION_TIMEOUT - 1.5, "an instance must not end before its owner's session"
    wait_instances(alive, left, 2)
    # web.service is enabled: it is back with the host.
    dead.fleet.boot([dead])
    wait_instances(hosts, ALL, 20)


def test_restarts_of_agent_and_helper_are_not_seen(hosts, units):
    """No registration is withdrawn, not for a moment, and no unit notices."""
    wait_instances(hosts, ALL)
    h1, h2, h3 = hosts
    pids = [main_pid(h, "web.service") for h in hosts]
    with Bus(h1) as bus, bus.watch("/services/web") as watch:
        h2.run("systemctl", "restart", "treaty-units.service")
        h3.kill_unit("treaty-units.service")
        h2.run("systemctl", "restart", "treatyd.service")
        h3.kill_unit("treatyd.service")
        told = watch.until_quiet(SESSION_TIMEOUT + 3)
    assert [r for r in told if r.kind == DELETE] == []
    wait_instances(hosts, ALL)
    assert [main_pid(h, "web.service") for h in hosts] == pids


def test_a_registration_by_call_lives_as_long_as_its_fd(hosts):
    with Bus(hosts[0]) as bus, Bus(hosts[2]) as far:
        fd, revision = bus.call("Services.Register", "db", 5432, {"properties": ("a{ss}", {"role": "main"})})
        fd = fd.to_raw_fd()
        far.call("Tree.Get", "/services/db/h1:5432", 0, {"min-revision": ("t", revision)})
        listed, _ = far.call("Services.List", "db", 0, "")
        assert [(i[0], i[1], i[3]) for i in listed] == [("db", "h1", 5432)]
        refused("Exists", bus, "Services.Register", "db", 5432, {})
    # The connection is closed, the fd is not.
    time.sleep(1)
    with Bus(hosts[2]) as far, far.watch("/services/db") as watch:
        assert far.call("Services.List", "db", 0, "")[0]
        os.close(fd)
        gone = watch.next(2)
        assert (gone.kind, gone.path) == (DELETE, "/services/db/h1:5432")


def test_the_helper_finds_all_its_registrations_again(hosts, units):
    """More than one unit on a host: a helper that starts anew sees what it had registered, and ends what is no more."""
    h1 = hosts[0]
    h1.write("/etc/systemd/system/api.service", WEB.replace("Service=web", "Service=api").replace("8080", "8081"))
    h1.run("systemctl", "daemon-reload")
    h1.run("systemctl", "start", "api.service")

    def registered():
        with Bus(h1) as bus:
            return {(name, unit) for name, unit, _, _ in bus.call("Services.ListUnits")}

    until(lambda: registered() == {("web", "web.service"), ("api", "api.service")}, 10, "both units to be registered")
    h1.run("systemctl", "stop", "treaty-units.service")
    h1.run("systemctl", "stop", "api.service")
    h1.run("systemctl", "start", "treaty-units.service")
    until(lambda: registered() == {("web", "web.service")}, 10, "the stopped unit's registration to end")
    with Bus(h1) as bus:
        until(lambda: bus.get("/services/api/h1:8081") is None, 5, "its entry to go")
        assert bus.get("/services/web/h1:8080")
    h1.run("rm", "/etc/systemd/system/api.service")
    h1.run("systemctl", "daemon-reload")


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 65, "a b", "é"])
def test_wrong_service_names(hosts, name):
    with Bus(hosts[0]) as bus:
        refused("InvalidName", bus, "Services.Register", name, 1, {})


def test_units_are_registered_by_root_only_and_for_real_invocations(hosts):
    with Bus(hosts[0]) as bus:
        for invocation in ("", "x", "0" * 31, "g" * 32):
            with pytest.raises(BusError):
                bus.call("Services.RegisterUnit", "web", "web.service", invocation, 1, {})
