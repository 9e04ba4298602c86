# treaty, compiled from this checkout and installed into a layer that lies over the image.
#
# The layer is filled through an overlay mount (image below, layer on top), so that installing there is the same as
# installing on a real host: /lib is the link it is everywhere, systemd-sysusers finds the real /etc/passwd, and
# `systemctl --root enable` the real targets. Afterwards the layer is a lower directory like the image, shared read only
# by all hosts of one lab. A running lab keeps its layer; the next `up` makes a new one.
import glob
import os
import shutil

from . import packages
from .tools import LabError, Lock, run, say, write

CHECKOUT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = f"{CHECKOUT}/build"

# Timers that would disturb measurements, and consoles nobody looks at. Everything else runs as on any Debian.
MASKED = """apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
    fstrim.timer console-getty.service getty.target""".split()

JOURNAL = """# Tests read the journals of crashed hosts, and must not lose lines of a busy one.
[Journal]
Storage=persistent
RateLimitIntervalSec=0
SystemMaxUse=200M
"""


def build():
    """Brings build/ up to date with the checkout."""
    if not os.path.exists(f"{CHECKOUT}/meson.build"):
        raise LabError(f"{CHECKOUT} has no meson.build, so there is nothing to build; 'up --bare' boots plain hosts")
    packages.install(packages.BUILD)
    with Lock(f"{BUILD}/.lab-lock", busy="waiting for another lab that builds in build/"):
        if not configured():
            say("setting up build/")
            run("meson", "setup", BUILD, CHECKOUT, "--prefix=/usr", "--buildtype=debugoptimized", timeout=300)
        say("building")
        run("ninja", "-C", BUILD, timeout=900)


def configured():
    if not os.path.exists(f"{BUILD}/build.ninja"):
        # A setup that was interrupted leaves files that the next one refuses to work with.
        shutil.rmtree(f"{BUILD}/meson-private", ignore_errors=True)
        return False
    return True


def layer(image, path, with_treaty=True):
    """Makes the layer at path: the hosts' common settings and, unless bare, treaty."""
    merged, work = f"{path}.merged", f"{path}.work"
    for needed in (path, merged, work):
        os.makedirs(needed)
    install = f'meson install -C "{BUILD}" --no-rebuild --quiet --destdir "{merged}"' if with_treaty else ":"
    # In a mount namespace of its own the overlay is gone when the script is, however it ends.
    run("unshare", "--mount", "--propagation", "private", "sh", "-ec", f"""
        mount -t overlay overlay -o "lowerdir={image},upperdir={path},workdir={work}" "{merged}"
        {install}
        systemd-sysusers --root="{merged}"
        systemctl --root="{merged}" --quiet mask {' '.join(MASKED)}
        systemctl --root="{merged}" --quiet set-default multi-user.target
        """, timeout=120)
    write(f"{path}/etc/systemd/journald.conf.d/lab.conf", JOURNAL)
    os.makedirs(f"{path}/var/log/journal", exist_ok=True)
    os.makedirs(f"{path}/var/lib/treaty", exist_ok=True)
    if with_treaty:
        enable(image, path, merged, work)
    shutil.rmtree(work)
    os.rmdir(merged)


def enable(image, path, merged, work):
    """Enables what the install brought, as the package's scripts would: every unit with an [Install] section."""
    units = []
    for unit in glob.glob(f"{path}/usr/lib/systemd/system/*.*"):
        name = os.path.basename(unit)
        if os.path.isfile(unit) and "@" not in name:
            with open(unit) as f:
                if "[Install]" in f.read():
                    units.append(name)
    if not units:
        raise LabError("the build installed no unit with an [Install] section")
    run("unshare", "--mount", "--propagation", "private", "sh", "-ec", f"""
        mount -t overlay overlay -o "lowerdir={image},upperdir={path},workdir={work}" "{merged}"
        systemctl --root="{merged}" --quiet enable {' '.join(sorted(units))}
        """)
