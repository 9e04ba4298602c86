# The minimal Debian that all hosts of all labs share, read only.
#
# It is made once (some 40 s) and kept under a name that is the hash of everything that went into it, so a changed list
# makes a new image and an old one is never repaired in place. It grows in a temporary directory and gets its name by
# rename: a run that was killed leaves nothing that looks whole.
import glob
import hashlib
import os
import shutil

from .tools import LabError, Lock, run, say

CACHE = "/var/cache/treaty-lab"
SUITE = "bookworm"

# init and bus, the libraries treatyd and its tools are linked against, and what one wants in a shell at night.
PACKAGES = """systemd systemd-sysv dbus libnghttp2-14 libsqlite3-0 libssl3 libprotobuf-c1 libxxhash0 libsmartcols1
    libjansson4 procps iproute2 less""".split()


def image(more=()):
    """Returns the directory of the image, with `more` packages, after making it when it is not there yet."""
    wanted = sorted([*PACKAGES, *more])
    name = hashlib.sha256(" ".join([SUITE] + wanted).encode()).hexdigest()[:12]
    path = f"{CACHE}/image-{name}"
    if os.path.isdir(path):
        return path
    with Lock(f"{CACHE}/lock", busy="waiting for another lab that makes the image"):
        if not os.path.isdir(path):
            make(path, wanted)
    return path


def make(path, wanted):
    for left in glob.glob(f"{CACHE}/making-*"):
        shutil.rmtree(left)
    making = f"{CACHE}/making-{os.getpid()}"
    mirror, proxy = where()
    say(f"making the hosts' image from {mirror} (once, about 40 s)")
    # debootstrap mounts proc and sys below its target. In a mount namespace of its own they end with it, however it
    # ends, and so nobody can ever remove a directory with a live /sys below it.
    run("unshare", "--mount", "--propagation", "private", "debootstrap", "--variant=minbase",
        "--include=" + ",".join(wanted), SUITE, making, mirror, timeout=900,
        env={**os.environ, **({"http_proxy": proxy} if proxy else {}), "LC_ALL": "C.UTF-8"})
    for needless in glob.glob(f"{making}/var/cache/apt/archives/*.deb") + glob.glob(f"{making}/var/lib/apt/lists/*_*"):
        os.unlink(needless)
    # Every host gets its own.
    for own in ("etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/resolv.conf"):
        if os.path.lexists(f"{making}/{own}"):
            os.unlink(f"{making}/{own}")
    os.rename(making, path)


def where():
    """The mirror and proxy this machine's apt uses: what is reachable for it is reachable for debootstrap."""
    mirror = "http://deb.debian.org/debian"
    told = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)",
               "Created-By: Packages", check=False).stdout
    for line in told.splitlines():
        words = line.split()
        if words[1:4] == [SUITE, "main", "Debian"]:
            mirror = words[0].rstrip("/")
            break
    if not mirror.startswith(("http://", "https://", "file://", "copy://")):
        raise LabError(f"apt uses {mirror}, which debootstrap cannot read")
    proxy = run("apt-config", "dump", "--format", "%v", "Acquire::http::Proxy", check=False).stdout.strip()
    return mirror, proxy
