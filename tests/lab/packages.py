# What this machine needs from Debian, and nothing that is there already.
#
# Asking dpkg costs some 10 ms, so every verb that needs something just asks. apt-get update runs only when an install
# fails without it: on most machines the lists are fresh enough, and on a bare one they are absent.
import os
import subprocess

from .tools import LabError, run, say

# The compiler and what treaty is built from (DESIGN: Debian 12 libraries only).
BUILD = """meson ninja-build gcc libc6-dev pkg-config git scdoc libsystemd-dev libnghttp2-dev libsqlite3-dev libssl-dev
    protobuf-c-compiler libprotobuf-c-dev protobuf-compiler libxxhash-dev uthash-dev libsmartcols-dev libjansson-dev
    libcmocka-dev""".split()

# What boots the hosts.
RUN = """systemd systemd-container debootstrap debian-archive-keyring iproute2 nftables util-linux mount e2fsprogs
    kmod libcap2-bin""".split()

# What tests them from outside. jeepney is the D-Bus library that nobody here wrote.
TEST = """python3 python3-pytest python3-jeepney clang-format-14 openssl nghttp2-client dbus valgrind""".split()


# What adds up coverage.
COVERAGE = ["gcovr"]


def missing(packages):
    told = run("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages, check=False).stdout
    there = {line.split()[0] for line in told.splitlines() if line.endswith(" installed")}
    return [p for p in packages if p not in there]


def install(packages):
    wanted = missing(packages)
    if not wanted:
        return
    say(f"installing {' '.join(wanted)}")
    if apt("install", wanted) == 0:
        return
    say("apt-get install failed; trying again with fresh package lists")
    apt("update", [])
    status = apt("install", wanted)
    if status != 0:
        raise LabError(f"apt-get install failed with {status}; the output above says why")


def apt(verb, packages):
    # Messages of a good run interest nobody; those of a failed one are shown.
    argv = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600"]
    argv += ["--no-install-recommends", verb] if packages else [verb]
    done = subprocess.run(argv + packages, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"})
    if done.returncode != 0:
        say("  " + "\n  ".join(done.stdout.strip().splitlines()[-15:]))
    return done.returncode
