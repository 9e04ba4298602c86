# The hosts of one lab, side by side with those of any other.
#
# A lab is a name. Everything it owns carries that name: a directory under /var/lib/treaty-lab, a cgroup, network
# namespaces. So what a lab left behind, whole or half-dead, can be found and removed without having been written down,
# and nothing else can be meant by it.
import concurrent.futures
import glob
import os
import re
import shutil
import time

from . import build, image, packages
from .host import Host, cgroup_root
from .net import Net
from .tools import LabError, Lock, read, run, say, write

STATE = "/var/lib/treaty-lab"
MAX_HOSTS = 60
INOTIFY = "/proc/sys/fs/inotify/max_user_instances"  # every systemd takes some ten, and one that gets none never boots
INOTIFY_NEEDED = 4096


class Fleet:
    def __init__(self, name):
        if not re.fullmatch(r"[a-z][a-z0-9]{0,15}", name):
            raise LabError(f"'{name}' cannot name a lab: one lower-case letter, then at most 15 letters and digits")
        self.name = name
        self.dir = f"{STATE}/{name}"
        self.net = Net(name)
        self._cgroup = None

    @property
    def cgroup(self):
        if self._cgroup is None:
            self._cgroup = f"{cgroup_root()}/{self.name}"
        return self._cgroup

    @property
    def lower(self):
        """The lower directories of every host's root, uppermost first."""
        return read(f"{self.dir}/lower").strip()

    def lock(self):
        return Lock(f"{STATE}/{self.name}.lock", busy=f"waiting for another command on lab '{self.name}'")

    # -- hosts ----------------------------------------------------------------------------------------------------

    @property
    def hosts(self):
        numbers = sorted(int(d.rsplit("/h", 1)[1]) for d in glob.glob(f"{self.dir}/h[0-9]*"))
        return [Host(self, n) for n in numbers]

    @property
    def has_disks(self):
        return all(os.path.exists(f"{h.dir}/disk.img") for h in self.hosts)

    def host(self, name):
        known = {h.name: h for h in self.hosts}
        if name in known:
            return known[name]
        if not known:
            raise LabError(f"lab '{self.name}' has no hosts; './lab up 3' makes some")
        raise LabError(f"lab '{self.name}' has no host '{name}'; it has {', '.join(known)}")

    def add(self, number, disk=None):
        host = Host(self, number)
        if host.exists:
            raise LabError(f"{host.name} exists already")
        host.create(disk)
        return host

    # -- the whole lab --------------------------------------------------------------------------------------------

    def up(self, count, disk=None, bare=False, fresh=True, more=()):
        """Boots count new hosts, after removing whatever a lab of this name left; `more`: Debian packages in their image."""
        if not 1 <= count <= MAX_HOSTS:
            raise LabError(f"a lab has 1 to {MAX_HOSTS} hosts")
        packages.install(packages.RUN)
        base = image.image(more)
        if not bare and fresh:
            build.build()
        self.down()
        began = time.monotonic()
        os.makedirs(self.dir)
        layer = f"{self.dir}/layer"
        build.layer(base, layer, with_treaty=not bare)
        write(f"{self.dir}/lower", f"{layer}:{base}\n")
        self.net.create()
        hosts = [self.add(n, disk) for n in range(1, count + 1)]
        self.boot(hosts)
        say(f"{count} host{'s' if count > 1 else ''} up in {time.monotonic() - began:.1f} s")
        return hosts

    def boot(self, hosts):
        """Boots hosts at the same time and waits for all of them."""
        if int(read(INOTIFY)) < INOTIFY_NEEDED:
            with open(INOTIFY, "w") as f:
                f.write(str(INOTIFY_NEEDED))
        for host in hosts:
            host.boot()
        self.each(Host.settle, hosts)

    def each(self, what, hosts):
        """Does one thing to many hosts at once; the first failure is raised when all are through."""
        if not hosts:
            return []
        with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
            return list(pool.map(what, hosts))

    def crash(self, hosts):
        """All cables first: none of the hosts hears of the end of another."""
        for host in hosts:
            self.net.unplug(host.name)
        self.each(Host.kill, hosts)

    def powercut(self, hosts):
        """What a power failure leaves of these hosts: frozen at one moment, their disks as of then, all else gone."""
        for host in hosts:
            if not os.path.exists(f"{host.dir}/disk.img"):
                raise LabError(f"{host.name} has no disk image of its own: make the lab with 'up N --disk=64M'")
        for host in hosts:
            self.net.unplug(host.name)
            if not host.paused:
                host.pause()
        copies = self.each(Host.copy_disk, hosts)
        self.each(Host.kill, hosts)
        for host, copy in zip(hosts, copies):
            os.rename(copy, f"{host.dir}/disk.img")

    def down(self):
        """Removes the lab, from whatever state it is in; True when there was something to remove."""
        spaces = self.net.mine()
        there = os.path.isdir(self.dir) or os.path.isdir(self.cgroup) or bool(spaces)
        # Processes by cgroup: also those of hosts whose directory is gone.
        for group in glob.glob(f"{self.cgroup}/h[0-9]*"):
            Host(self, int(group.rsplit("/h", 1)[1])).kill()
        if os.path.isdir(self.cgroup):
            os.rmdir(self.cgroup)
            if not glob.glob(f"{cgroup_root()}/*/"):
                os.rmdir(cgroup_root())
        self.net.destroy()
        # Nothing of ours mounts in the machine's own namespace, but a person may have looked into an image by hand.
        if os.path.isdir(self.dir):
            mounted = [line.split()[1] for line in read("/proc/self/mounts").splitlines()
                       if line.split()[1].startswith(f"{self.dir}/")]
            for path in sorted(mounted, reverse=True):
                run("umount", path)
            shutil.rmtree(self.dir)
        return there

    # -- cuts -----------------------------------------------------------------------------------------------------

    def cut(self, one, other=None, one_way=False):
        """Cuts the link between two hosts, or between one and all others; one-way: only from the first to the rest."""
        others = [self.host(other)] if other else [h for h in self.hosts if h.name != one]
        self.host(one)
        for far in others:
            if far.name == one:
                raise LabError(f"{one} has no link to itself that could be cut")
            self.net.cut(one, far.name)
            if not one_way:
                self.net.cut(far.name, one)

    def heal(self):
        self.net.heal()
