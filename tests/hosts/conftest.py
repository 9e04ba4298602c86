# The hosts are booted once for all tests that need a cluster; each test leaves it whole, or says which host it broke.
#
# Two labs are used: "NAME" carries a formed cluster of three, "NAMEx" belongs to tests that bring up hosts of their own.
# NAME is $LAB_NAME, as everywhere.
import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from lab import cluster  # noqa: E402
from lab.fleet import Fleet  # noqa: E402
from lab.tools import LabError  # noqa: E402

NAME = os.environ.get("LAB_NAME", "test")


@pytest.fixture(scope="session")
def fleet():
    """Three hosts that form one cluster, each with a disk of its own so that power can be cut."""
    lab = Fleet(NAME)
    try:
        hosts = lab.up(3, disk="256M", fresh=False)
        cluster.form(hosts)
        yield lab
        assert not crashes(lab), "an agent or a helper broke down by itself; its journal is above"
    finally:
        lab.down()


BROKE = "Assertion|status=[0-9]*/(ABRT|SEGV|BUS|FPE|ILL)|watchdog timeout"


def crashes(lab):
    """What the hosts' journals tell of programs that ended by an assertion or a wild pointer; no test asks for that."""
    told = "".join(h.journal("-u", "treatyd.service", "-u", "treaty-units.service", f"--grep={BROKE}", check=False)
                   for h in lab.hosts)
    print(told)
    return told


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows what the agents of its hosts said last."""
    report = (yield).get_result()
    if not report.failed:
        return
    for name in (NAME, NAME + "j", NAME + "n"):
        for host in Fleet(name).hosts:
            try:
                told = host.journal("-u", "treatyd.service", "-u", "treaty-units.service", "-n", "15", "-o", "short-precise")
            except LabError as e:
                told = str(e)
            report.sections.append((f"journal of {host.name} in lab {name}", told))


@pytest.fixture
def hosts(fleet):
    """The three hosts of the cluster, healed and running, before and after the test."""
    yield whole(fleet)
    whole(fleet)


def whole(fleet):
    hosts = fleet.hosts[:3]
    fleet.heal()
    for host in hosts:
        if host.paused:
            host.resume()
    fleet.boot([h for h in hosts if not h.running])
    for host in hosts:
        host.run("systemctl", "start", "treatyd.service", "treaty-units.service")
    cluster.wait_formed(hosts)
    return hosts


@pytest.fixture
def spare():
    """An empty lab for tests that need hosts of another kind, or may break them for good."""
    lab = Fleet(NAME + "x")
    lab.down()
    try:
        yield lab
    finally:
        lab.down()
