# One real systemd host: its own PID 1, system bus, disk, network namespace.
#
# Nothing about a running host is kept in files, because files outlive what they describe. All its processes, nspawn
# included, live in one cgroup of its own (v2: freezing and killing a whole tree are single writes there, and neither can
# ever hit a process that is not ours, as a recorded pid could). All its mounts live in a mount namespace that only these
# processes hold. So killing the cgroup leaves nothing behind, and the state can always be asked from the kernel:
#
#     cgroup empty        off
#     cgroup populated    running, or paused when frozen
#
# On disk a host is one directory:  upper/ (all that was ever written to its root), disk.img (only with --disk: an ext4
# image of that size at /var/lib/treaty), console.log.
import errno
import filecmp
import os
import re
import shutil
import signal
import subprocess
import time
import uuid

from . import net
from .tools import LabError, read, run, until, write

# What starts a host; runs in the host's cgroup already, so that nothing escapes a crash, and in a mount namespace of
# its own.
BOOT = r"""
# The disk of a host that was just killed may need a moment until the kernel has let go of it.
for try in 1 2 3 4 5 6 7 8 9 10; do
        mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root" && break
        [ $try != 10 ] || exit 1
        sleep 0.5
done
bind=
if [ -e "$DIR/disk.img" ]; then
        mount -o loop "$DIR/disk.img" "$DIR/disk"
        bind="--bind=$DIR/disk:/var/lib/treaty"
fi
# Hosts see cgroup v2 whatever the machine itself uses.
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
# nspawn keeps locks there, and a killed one would leave them on the machine.
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 tmpfs /run/systemd/nspawn
exec systemd-nspawn --quiet --boot --register=no --keep-unit --directory="$DIR/root" --machine="$MACHINE" \
        --hostname="$HOST" --network-namespace-path="/run/netns/$SPACE" --console=pipe --link-journal=no \
        --resolv-conf=off --timezone=off $bind
"""

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "USER": "root",
               "LANG": "C.UTF-8", "SYSTEMD_PAGER": "cat", "TERM": os.environ.get("TERM", "dumb")}


def cgroup_root():
    """Where cgroup v2 is mounted on this machine; hybrid machines have it beside v1."""
    for line in read("/proc/self/mounts").splitlines():
        _, where, kind = line.split()[:3]
        if kind == "cgroup2":
            return f"{where}/treaty-lab"
    raise LabError("this machine has no cgroup v2 mounted: 'mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified' helps")


class Host:
    def __init__(self, fleet, number):
        self.fleet, self.number, self.name = fleet, number, f"h{number}"
        self.address = net.address(number)
        self.dir = f"{fleet.dir}/{self.name}"
        self.cgroup = f"{fleet.cgroup}/{self.name}"
        self._init = None

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def exists(self):
        return os.path.isdir(self.dir)

    @property
    def running(self):
        try:
            return "populated 1" in read(f"{self.cgroup}/cgroup.events")
        except FileNotFoundError:
            return False

    @property
    def paused(self):
        try:
            return read(f"{self.cgroup}/cgroup.freeze").strip() == "1"
        except FileNotFoundError:
            return False

    @property
    def state(self):
        return "off" if not self.running else "paused" if self.paused else "running"

    @property
    def init(self):
        """The host's PID 1 as this machine numbers it."""
        if self._init is None or not self.is_init(self._init):
            self._init = self.find_init()
        if self._init is None:
            raise LabError(f"{self.name} is off; './lab start {self.name}' boots it")
        return self._init

    def is_init(self, pid):
        try:
            with open(f"/proc/{pid}/cgroup") as f:
                ours = f"/treaty-lab/{self.fleet.name}/{self.name}/" in f.read()
            return ours and re.search(r"^NSpid:\s+\d+\s+1$", read(f"/proc/{pid}/status"), re.M) is not None
        except (FileNotFoundError, ProcessLookupError):
            return False

    def find_init(self):
        for parent, _, _ in os.walk(f"{self.cgroup}/payload"):
            try:
                pids = read(f"{parent}/cgroup.procs").split()
            except OSError:
                continue
            for pid in pids:
                if pid != "0" and self.is_init(int(pid)):
                    return int(pid)
        return None

    def path(self, inside):
        """A path of the running host as seen from this machine."""
        return f"/proc/{self.init}/root{inside}"

    # -- life -----------------------------------------------------------------------------------------------------

    def create(self, disk=None):
        """A new host that was never booted: an empty disk and an identity of its own."""
        for part in ("upper", "work", "root", "disk"):
            os.makedirs(f"{self.dir}/{part}")
        everyone = "".join(f"{net.address(n)} h{n}\n" for n in range(1, 51))
        write(f"{self.dir}/upper/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n{everyone}")
        write(f"{self.dir}/upper/etc/hostname", f"{self.name}\n")
        write(f"{self.dir}/upper/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
        if disk:
            run("truncate", "--size", disk, f"{self.dir}/disk.img")
            run("mkfs.ext4", "-q", "-m", "0", "-O", "^resize_inode", f"{self.dir}/disk.img")

    def boot(self):
        """Starts the host and returns at once; settle() waits for it."""
        if self.running:
            raise LabError(f"{self.name} is running already")
        os.makedirs(self.cgroup, exist_ok=True)
        self.fleet.net.plug(self.name, self.address)
        # Popen returns when the child has become unshare, so from then on the cgroup tells whether the host lives.
        with open(f"{self.dir}/console.log", "a") as console:
            subprocess.Popen(["unshare", "--mount", "--propagation", "slave", "sh", "-ec", BOOT],
                             preexec_fn=lambda: write_once(f"{self.cgroup}/cgroup.procs", str(os.getpid())),
                             stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                             cwd="/", env={**ENVIRONMENT, "DIR": self.dir, "LOWER": self.fleet.lower,
                                           "HOST": self.name, "MACHINE": f"{self.fleet.name}-{self.name}",
                                           "SPACE": self.fleet.net.host_space(self.name)})

    def settle(self, timeout=60):
        """Waits until systemd has finished booting; returns its word for that, "running" or "degraded"."""
        deadline = time.monotonic() + timeout

        def up():
            if not self.running:
                tail = "\n  ".join(read(f"{self.dir}/console.log").splitlines()[-8:])
                raise LabError(f"{self.name} died while booting; its console says:\n  {tail}")
            return self.find_init() and os.path.exists(self.path("/run/systemd/private"))

        until(up, timeout, f"{self.name} to boot; see {self.dir}/console.log")
        word = ""
        # --wait may miss the end of booting, seldom; who asks again does not.
        while word in ("", "initializing", "starting") and time.monotonic() < deadline:
            word = self.run("timeout", "3", "systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        if word not in ("running", "degraded"):
            raise LabError(f"{self.name} booted to the state '{word}'; './lab log {self.name}' tells more")
        return word

    def kill(self):
        """kill -9 of everything in the host, at once. What the network still carried of it is lost, as with a cut
        mains lead; what it had handed to its disk is not."""
        self.fleet.net.unplug(self.name)
        if self.running:
            write_once(f"{self.cgroup}/cgroup.kill", "1")
        until(lambda: not self.running, 20, f"all processes of {self.name} to end")
        self._init = None
        self.fleet.net.remove(self.name)
        if os.path.exists(f"{self.dir}/disk.img"):
            self.await_loop()
        self.forget_cgroup()

    crash = kill

    def forget_cgroup(self):
        for parent, _, _ in os.walk(self.cgroup, topdown=False):
            try:
                os.rmdir(parent)
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.EBUSY):
                    raise

    def poweroff(self, timeout=30):
        """An orderly shutdown, as by an operator."""
        self.run("systemctl", "poweroff", check=False)
        until(lambda: not self.running, timeout, f"{self.name} to shut down")
        self.kill()

    def pause(self):
        if not self.running:
            raise LabError(f"{self.name} is off; there is nothing to pause")
        write_once(f"{self.cgroup}/cgroup.freeze", "1")
        until(lambda: "frozen 1" in read(f"{self.cgroup}/cgroup.events"), 10, f"{self.name} to freeze")

    def resume(self):
        if not self.paused:
            raise LabError(f"{self.name} is not paused")
        write_once(f"{self.cgroup}/cgroup.freeze", "0")

    def copy_disk(self):
        """Copies the image of a frozen host as a sudden loss of power would leave it.

        What the host had not synced is in the page cache of its own file system, above the image, and so not in the
        copy. The kernel may still be writing to the image while we copy; two equal readings in a row mean that it was
        not, and the copy is of one moment."""
        image, copy = f"{self.dir}/disk.img", f"{self.dir}/disk.cut"
        if not os.path.exists(image):
            raise LabError(f"{self.name} has no disk image of its own: make the lab with 'up N --disk=64M'")
        for _ in range(20):
            run("cp", "--sparse=always", image, copy)
            if filecmp.cmp(image, copy, shallow=False):
                return copy
        raise LabError(f"the disk of {self.name} never came to rest although the host is frozen")

    def keep_disk(self):
        """Keeps the disk as it is now, for put_back_disk() on a later day; the host stands still for a moment."""
        self.pause()
        try:
            os.rename(self.copy_disk(), f"{self.dir}/disk.old")
        finally:
            self.resume()

    def put_back_disk(self):
        """A host that is off wakes up with the disk that was kept."""
        os.rename(f"{self.dir}/disk.old", f"{self.dir}/disk.img")

    def wipe_disk(self):
        """A new, empty disk of the same size for a host that is off."""
        run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^resize_inode", f"{self.dir}/disk.img")

    def on_disk(self, *argv):
        """Runs a program on this machine with the disk of a host that is off; "@" stands for where it is mounted."""
        where = f"{self.dir}/disk"
        done = run("unshare", "--mount", "--propagation", "private", "sh", "-ec",
                   'mount -o loop "$1" "$2"; shift 2; exec "$@"', "sh", f"{self.dir}/disk.img", where,
                   *(where if a == "@" else a for a in argv))
        self.await_loop()
        return done.stdout

    def await_loop(self):
        until(lambda: not run("losetup", "--noheadings", "-j", f"{self.dir}/disk.img").stdout.strip(), 10,
              f"the kernel to let go of {self.dir}/disk.img", step=0.05)

    def destroy(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=False)

    # -- running things inside ------------------------------------------------------------------------------------

    def enter(self, argv):
        """The command line that runs argv inside the host, and what must run in the child before it."""
        if self.paused:
            raise LabError(f"{self.name} is paused; './lab resume {self.name}' lets it go on")
        # Beside the payload, not in it: it dies and freezes with the host, and to the host's systemd it belongs to no
        # unit, as with somebody at a console.
        outside = f"{self.cgroup}/exec"

        def join():
            os.makedirs(outside, exist_ok=True)
            write_once(f"{outside}/cgroup.procs", str(os.getpid()))

        return ["nsenter", "--all", f"--target={self.init}", "--"] + [str(a) for a in argv], join

    def run(self, *argv, timeout=60, check=True, input=None, text=True):
        """Runs a command inside and returns the CompletedProcess; raises LabError when it fails and check is set."""
        line, join = self.enter(argv)
        try:
            done = subprocess.run(line, preexec_fn=join, input=input, text=text, capture_output=True, timeout=timeout,
                                  env=ENVIRONMENT, cwd="/", **({} if input is not None else
                                                               {"stdin": subprocess.DEVNULL}))
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: '{' '.join(map(str, argv))}' did not end within {timeout:.0f} s")
        if check and done.returncode != 0:
            told = done.stderr if done.stderr else done.stdout
            told = told if isinstance(told, str) else told.decode(errors="replace")
            raise LabError(f"{self.name}: '{' '.join(map(str, argv))}' failed with {done.returncode}: {told.strip()}")
        return done

    def popen(self, *argv, **options):
        """Starts a command inside and returns the Popen."""
        line, join = self.enter(argv)
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen(line, preexec_fn=join, env=ENVIRONMENT, cwd="/", **options)

    def become(self, argv):
        """Replaces this process by a command inside the host: streams and exit status are simply its own."""
        line, join = self.enter(argv)
        join()
        os.chdir("/")
        os.execvpe(line[0], line, ENVIRONMENT)

    def write(self, inside, text, mode=0o644):
        """Writes a file inside the host, running or not."""
        if self.running:
            self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"', "sh", inside,
                     f"{mode:o}", input=text)
        else:
            write(f"{self.dir}/upper{inside}", text, mode)

    def journal(self, *argv, check=True):
        """Runs journalctl on the host's journal; also when the host is off."""
        if self.running and not self.paused:
            return self.run("journalctl", "--no-pager", "--quiet", *argv, check=check).stdout
        where = f"{self.dir}/upper/var/log/journal"
        if not os.path.isdir(where):
            return ""
        return run("journalctl", "--no-pager", "--quiet", f"--directory={where}", *argv, check=check).stdout

    def kill_unit(self, unit, number=signal.SIGKILL):
        self.run("systemctl", "kill", f"--signal={int(number)}", unit)


def write_once(path, text):
    """For files of the kernel, which take what one write brings."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
