# The bus that Fedora has, and the authority that desktops have: dbus-broker and a real polkitd.
#
# Everywhere else the hosts run dbus-daemon without polkit, as a minimal Debian does.
import pytest

from conftest import NAME
from lab import cluster
from lab.bus import Bus, BusError
from lab.fleet import Fleet
from lab.tools import LabError, until, write

GAMES, MAN = 5, 6  # users that every Debian has
RULE = """polkit.addRule(function(action, subject) {
        if (action.id == "org.treaty1.manage-cluster" && subject.user == "games")
                return polkit.Result.YES;
});
"""


@pytest.fixture(scope="module")
def host():
    fleet = Fleet(NAME + "p")
    try:
        [host] = fleet.up(1, fresh=False, more=("dbus-broker", "libpam-systemd", "polkitd"))
        write(host.path("/etc/polkit-1/rules.d/10-games.rules"), RULE)
        host.run("systemctl", "enable", "dbus-broker.service")
        # The broker cannot be changed under running services; a host is started anew for it.
        fleet.crash([host])
        fleet.boot([host])
        cluster.form([host])
        yield host
    finally:
        fleet.down()


def test_the_broker_carries_what_the_daemon_carries(host):
    """Calls, file descriptors, signals, large values, callers told apart, activation by name."""
    assert "dbus-broker" in host.run("systemctl", "show", "-p", "Id", "dbus.service").stdout
    with Bus(host) as bus, Bus(host, uid=MAN) as other:
        with bus.watch("/broker") as watch:
            value = b"x" * (1 << 20)
            revision = bus.set("/broker/large", value)
            record = watch.next()
            assert (record.revision, record.value) == (revision, value)
        assert bus.get("/broker/large")[0] == value
        with pytest.raises(BusError, match="AccessDenied"):
            other.get("/broker/large")
        assert other.call("Cluster.ListMembers")[0][1] == host.name
    host.run("systemctl", "stop", "treatyd.service")
    with Bus(host) as bus:  # whoever calls starts it
        assert until(lambda: tried(bus), 10, "the agent to be started by a call")[1] == revision


def tried(bus):
    try:
        return bus.get("/broker/large")
    except LabError:
        return None


def test_polkitd_decides_for_others(host):
    """A rule lets one user administer the cluster; another would have to ask for consent; root needs no polkitd."""
    with Bus(host, uid=GAMES) as games, Bus(host, uid=MAN) as man:
        assert games.call("Cluster.Scrub", 0) > 0
        assert len(games.call("Cluster.Token", 0, {})) > 40
        with pytest.raises(BusError, match="InteractiveAuthorizationRequired.*administrator"):
            man.call("Cluster.Scrub", 0)
    host.run("systemctl", "mask", "--runtime", "--now", "polkit.service")
    with Bus(host, uid=GAMES) as games, Bus(host) as root:
        with pytest.raises(BusError, match="AccessDenied"):
            games.call("Cluster.Scrub", 0)
        assert root.call("Cluster.Scrub", 0) > 0
