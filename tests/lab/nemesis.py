# What is done to hosts while they work: kills, cuts, pauses, full and hanging disks, rot, lost disks and old ones.
#
# Each deed does its harm, takes its time, and ends it as an operator would who knows nothing of treaty: links are healed,
# space is freed, hosts are switched on. What treaty has to do by itself then, it does by itself. Only two things are for
# the operator to do, and are done by him here: a host whose disk is gone, or came back old, is removed and joins anew.
#
# Chance is given, so a seed repeats the choices. What a machine makes of them is its own.
import collections
import errno
import fcntl
import os
import signal
import threading
import time

from . import cluster, rot
from .bus import Bus
from .tools import LabError, until

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
STATE = "/var/lib/treaty"
LARGE, LARGE_COUNT = 65536, 320  # values that make a tree large enough to be caught half received
BACK = 30  # within this all is well again, without anybody

Kind = collections.namedtuple("Kind", "name weight do disk")
KINDS = {}
# What agents say of a disk that went back in time: its own, or when a peer has one.
OLD_DISK = "The log is damaged|acknowledged more than its log has|is a copy or was set back"


def kind(name, weight, disk=False):
    def note(do):
        KINDS[name] = Kind(name, weight, do, disk)
        return do
    return note


class Nemesis:
    def __init__(self, fleet, hosts, chance, longest=20):
        self.fleet, self.hosts, self.chance, self.longest = fleet, hosts, chance, longest
        self.strangers = set()  # names of hosts that are other members since

    # -- who, and for how long ------------------------------------------------------------------------------------

    def one(self):
        return self.chance.choice(self.hosts)

    def leader(self):
        return cluster.leader(self.hosts)

    def one_or_leader(self):
        return self.one() if self.chance.random() < 0.5 else self.leader()

    def span(self, least, most):
        """Short ones as often as long ones."""
        return least * (min(most, self.longest) / least) ** self.chance.random()

    def wait(self, least, most):
        seconds = self.span(least, most)
        time.sleep(seconds)
        return f"{seconds:.1f} s"

    # -- deaths ---------------------------------------------------------------------------------------------------

    def kill_agents(self, hosts):
        self.fleet.each(lambda h: h.kill_unit("treatyd.service"), hosts)

    @kind("agent", 4)
    def agent(self):
        host = self.one_or_leader()
        self.kill_agents([host])
        return host.name

    @kind("all agents", 1)
    def all_agents(self):
        self.kill_agents(self.hosts)
        return ""

    @kind("host", 3)
    def host(self):
        host = self.one_or_leader()
        self.fleet.crash([host])
        return host.name

    @kind("all hosts", 1)
    def all_hosts(self):
        self.fleet.crash(self.hosts)
        return ""

    @kind("power", 3, disk=True)
    def power(self):
        host = self.one_or_leader()
        self.fleet.powercut([host])
        return host.name

    @kind("all power", 3, disk=True)
    def all_power(self):
        self.fleet.powercut(self.hosts)
        return ""

    # -- silence --------------------------------------------------------------------------------------------------

    @kind("cut", 3)
    def cut(self):
        one = self.one_or_leader()
        far = self.chance.choice([h for h in self.hosts if h.name != one.name] + [None])
        self.fleet.cut(one.name, far.name if far else None)
        took = self.wait(0.3, 8)
        self.fleet.heal()
        return f"{one.name} and {far.name if far else 'all'}, {took}"

    @kind("one-way cut", 3)
    def one_way(self):
        one = self.one_or_leader()
        others = [h for h in self.hosts if h.name != one.name]
        deaf = self.chance.random() < 0.5
        chosen = others if self.chance.random() < 0.5 else [self.chance.choice(others)]
        for other in chosen:
            self.fleet.cut(*((other.name, one.name) if deaf else (one.name, other.name)), one_way=True)
        took = self.wait(0.3, 8)
        self.fleet.heal()
        return f"{one.name} {'does not hear' if deaf else 'is not heard by'} {' '.join(h.name for h in chosen)}, {took}"

    @kind("pause of the leader's agent", 3)
    def pause_agent(self):
        host = self.leader()
        host.kill_unit("treatyd.service", signal.SIGSTOP)
        took = self.wait(0.2, 20)
        host.kill_unit("treatyd.service", signal.SIGCONT)
        return f"{host.name}, {took}"

    @kind("pause of the leader's host", 3)
    def pause_host(self):
        host = self.leader()
        host.pause()
        took = self.wait(0.2, 20)
        host.resume()
        return f"{host.name}, {took}"

    # -- disks ----------------------------------------------------------------------------------------------------

    @kind("full disk", 3, disk=True)
    def full_disk(self):
        hosts = self.chance.choice([[self.leader()], [self.one()], self.hosts])
        paths = [h.path(f"{STATE}/lost+found/full") for h in hosts]
        fds = [os.open(path, os.O_RDWR | os.O_CREAT, 0o600) for path in paths]
        try:
            until_full = time.monotonic() + self.span(0.5, 5)
            while time.monotonic() < until_full:
                for fd in fds:
                    fill(fd)
                time.sleep(0.05)
        finally:
            for fd, path in zip(fds, paths):
                os.close(fd)
                os.unlink(path)
        return " ".join(h.name for h in hosts)

    @kind("hanging disk", 2, disk=True)
    def hanging_disk(self):
        host = self.one_or_leader()
        with hanging(host):
            took = self.wait(0.3, 6)
        return f"{host.name}, {took}"

    def rot(self, what):
        """A byte of one host's disk changes: while the host is off, or under the running agent, which is then ended, or not."""
        host, seed = self.one_or_leader(), self.chance.random()
        how = self.chance.choice(["while off", "while off, after a power cut", "under the agent", "under the agent, then killed"])
        if how.startswith("while off"):
            if "power" in how:
                self.fleet.powercut([host])
            else:
                self.fleet.crash([host])
            told = host.on_disk("/usr/bin/python3", "-B", rot.__file__, "@", what, seed).strip()
        else:
            told = until(lambda: self.flip(host, what, seed), 10, f"{host.name} to have a byte of its {what} to flip", step=0.05)
            time.sleep(0.2)
            if "killed" in how:
                self.kill_agents([host])
        return f"{host.name} {how}: {told}"

    def flip(self, host, what, seed):
        """None: there is nothing of that kind just now; while there are writers, there will be."""
        try:
            return rot.flip(host.path(STATE), what, str(seed))
        except (rot.Nothing, FileNotFoundError):
            return None

    @kind("rot in the log", 3, disk=True)
    def rot_log(self):
        return self.rot("log")

    @kind("rot in the tree", 3, disk=True)
    def rot_tree(self):
        return self.rot("tree")

    @kind("rot in the WAL", 3, disk=True)
    def rot_wal(self):
        return self.rot("wal")

    @kind("rot in a snapshot", 2, disk=True)
    def rot_build(self):
        """A host that joins anew receives the tree; what it has so far is hurt, and sometimes the agent or the power ends, too."""
        self.enlarge()
        host, seed = self.one(), str(self.chance.random())
        self.fleet.crash([host])
        host.wipe_disk()
        self.fleet.boot([host])
        told = []
        watcher = threading.Thread(target=self.hurt_build, args=(host, seed, told), daemon=True)
        watcher.start()
        self.join_anew(host, patience=60)
        watcher.join(60)
        return f"{host.name}: {told[0] if told else 'it was faster'}"

    def hurt_build(self, host, seed, told):
        then = self.chance.choice(["nothing more", "agent killed", "paused"])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                builds = [n for n in os.listdir(host.path(STATE)) if n.startswith("build-")]
                if any(os.path.getsize(host.path(f"{STATE}/{n}")) > 1 << 20 for n in builds):
                    host.pause()
                    try:
                        told.append(f"{rot.flip(host.path(STATE), 'build', seed)}, {then}")
                    finally:
                        host.resume()
                    if then == "agent killed":
                        self.kill_agents([host])
                    return
            except (LabError, OSError, rot.Nothing):
                pass
            time.sleep(0.002)

    def enlarge(self):
        with Bus(self.hosts[0], private=True) as bus:
            if bus.get(f"/large/{LARGE_COUNT - 1}") is None:
                for n in range(LARGE_COUNT):
                    bus.set(f"/large/{n}", os.urandom(LARGE))

    @kind("wiped disk", 2, disk=True)
    def wiped(self):
        host = self.one_or_leader()
        self.fleet.crash([host])
        host.wipe_disk()
        self.fleet.boot([host])
        self.join_anew(host)
        return host.name

    @kind("yesterday's disk", 3, disk=True)
    def yesterday(self):
        """The host gave its word since; whoever let it vote with this disk would let it take that back."""
        host = self.one_or_leader()
        votes = any(m["name"] == host.name and m["role"] == "voter" for m in cluster.members(host))
        host.keep_disk()
        took = self.wait(0.5, 4)
        between, others_too = self.chance.random() < 0.4, self.chance.random() < 0.25
        if between:  # then its start numbers repeat themselves
            self.kill_agents([host])
            until(lambda: healthy(host), BACK, f"{host.name} to start once more", step=0.1)
        self.fleet.crash([host])
        if others_too:
            self.fleet.crash([h for h in self.hosts if h.name != host.name])
        host.put_back_disk()
        since = time.time()
        self.fleet.boot([h for h in self.hosts if h.state == "off"])
        noticed = self.notices(host, since, certain=not others_too and (votes or between))
        well = self.gets_well(host, 8)
        if not well:
            self.join_anew(host)
        return (f"{host.name}, {took} old{', started once more since' if between else ''}"
                f"{', all others started anew, too' if others_too else ''}: {'noticed' if noticed else 'nobody remembered'}, "
                f"{'well by itself' if well else 'joined anew'}")

    def notices(self, host, since, certain):
        """Somebody says that this disk is old, or the host that it may have lost what it promised."""
        def said():
            return any(h.journal("-u", "treatyd.service", f"--since=@{int(since)}", f"--grep={OLD_DISK}", check=False).strip()
                       for h in self.hosts)
        try:
            return until(said, 15 if certain else 3, f"anybody to notice that the disk of {host.name} is of yesterday", step=0.3)
        except LabError:
            if certain:
                raise
            return False

    def gets_well(self, host, seconds):
        """False: its operator is needed, because it says so or because it takes so long."""
        try:
            return until(lambda: state(host), seconds, "", step=0.1) == "running"
        except LabError:
            return False

    # -- what only an operator does -------------------------------------------------------------------------------

    def join_anew(self, host, patience=30):
        """treatyctl remove on another host, a new token, join: what docs tell an operator to do."""
        self.strangers.add(host.name)
        other = next(h for h in self.hosts if h.name != host.name and h.state == "running")
        deadline = time.monotonic() + patience
        if any(m["name"] == host.name for m in cluster.members(other)):
            until(lambda: other.run("treatyctl", "remove", host.name, check=False).returncode in (0, 4), 30,
                  f"{host.name} to be removed", step=0.3)
        until(lambda: not any(m["name"] == host.name for m in cluster.members(other)), 20, f"{host.name} to be gone", step=0.1)
        token = until(lambda: cluster.try_token(other), 20, f"a token on {other.name}", step=0.3)
        told = ""
        while time.monotonic() < deadline:
            done = host.run("treatyctl", "join", "--discard", token, check=False, timeout=90)
            told = (done.stderr or done.stdout).strip()
            if done.returncode == 0 or ("already" in told.lower() and healthy(host)):
                return
            time.sleep(0.5)
            token = cluster.try_token(other) or token
        raise LabError(f"{host.name} cannot join again: {told}")

    # -- the end of a deed ----------------------------------------------------------------------------------------

    def mend(self):
        self.fleet.heal()
        for host in self.hosts:
            if host.paused:
                host.resume()
        self.fleet.boot([h for h in self.hosts if h.state == "off"])
        for host in self.hosts:
            # systemd restarts a killed agent by itself; here it is killed faster than any limit on restarts allows.
            host.run("systemctl", "reset-failed", "treatyd.service", "treaty-units.service", check=False)
            host.run("systemctl", "start", "--no-block", "treatyd.service", "treaty-units.service")

    def await_back(self, timeout=BACK):
        """Until every host is whole and all see one cluster; returns how long that took."""
        began = time.monotonic()
        for host in self.hosts:
            until(lambda: healthy(host), max(1, began + timeout - time.monotonic()), step=0.1,
                  what=lambda: f"{host.name} to be well again by itself; it says: {ailment(host)}")
        cluster.wait_formed(self.hosts, timeout=max(1, began + timeout - time.monotonic()))
        return time.monotonic() - began


def state(host):
    """"running" or "quarantined"; None: wait."""
    told = host.run("treatyctl", "status", check=False, timeout=20)
    return "running" if told.returncode == 0 else "quarantined" if "quarantined" in told.stdout else None


def healthy(host):
    return host.run("treatyctl", "status", check=False, timeout=20).returncode == 0


def ailment(host):
    told = host.run("treatyctl", "status", check=False, timeout=20)
    last = host.journal("-u", "treatyd.service", "-n", "3", "-o", "cat", check=False)
    return f"{(told.stdout + told.stderr).strip()}\n  its agent said last:\n{last}"


def fill(fd):
    """Takes all room that there is, in large pieces first."""
    piece = 1 << 26
    while piece >= 1024:
        try:
            os.posix_fallocate(fd, os.fstat(fd).st_size, piece)
        except OSError as e:
            if e.errno != errno.ENOSPC:
                raise
            piece //= 2


class hanging:
    """The file system of a host's state directory stands still: what writes or syncs there, waits."""

    def __init__(self, host):
        self.fd = os.open(host.path(STATE), os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self):
        fcntl.ioctl(self.fd, FIFREEZE, 0)

    def __exit__(self, *_):
        fcntl.ioctl(self.fd, FITHAW, 0)
        os.close(self.fd)
