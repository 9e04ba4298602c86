# What treaty is measured against: three members each of etcd and ZooKeeper, on loopback, as Debian packages them.
#
# Durability is as they come (both sync before they answer), the data lies on the same disk as the hosts of the lab, and
# nothing is tuned for or against them. Each member is a process started here and ended by its pid.
import os
import shutil
import signal
import socket
import subprocess
import time

from . import packages
from .tools import LabError, write

PACKAGES = """etcd-server etcd-client zookeeper libzookeeper-st-dev default-jre-headless""".split()
HOST = "127.0.0.1"


class Member:
    """A server process, looked at from outside."""

    def __init__(self, name, argv, directory, client_port):
        self.name, self.argv, self.directory = name, argv, directory
        self.address = f"{HOST}:{client_port}"
        self.process = None

    def start(self):
        log = open(f"{self.directory}/log", "ab")
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                        cwd=self.directory, start_new_session=True)
        log.close()

    @property
    def pid(self):
        return self.process.pid

    @property
    def cpu_usec(self):
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * 1e6 / os.sysconf("SC_CLK_TCK")

    @property
    def written(self):
        with open(f"/proc/{self.pid}/io") as f:
            return int([line.split()[1] for line in f if line.startswith("write_bytes")][0])

    @property
    def memory_mib(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int([line.split()[1] for line in f if line.startswith("VmRSS")][0]) / 1024

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()


class Rival:
    """Three members and what finds their leader."""

    def __init__(self, directory):
        self.directory = f"{directory}/{self.name}"
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        self.members = [self.member(i) for i in range(3)]

    def __enter__(self):
        for member in self.members:
            member.start()
        deadline = time.monotonic() + 60
        while not self.leader():
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} found no leader within a minute: see {self.directory}")
            time.sleep(0.2)
        return self

    def __exit__(self, *_):
        for member in self.members:
            member.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def followers(self):
        leader = self.leader()
        return [m for m in self.members if m is not leader]


class Etcd(Rival):
    name = "etcd"
    load = "etcd-load"

    def member(self, i):
        directory = f"{self.directory}/m{i}"
        os.makedirs(directory)
        client, peer = 23790 + i, 23800 + i
        cluster = ",".join(f"m{k}=http://{HOST}:{23800 + k}" for k in range(3))
        return Member(f"m{i}", [
            "/usr/bin/etcd", f"--name=m{i}", f"--data-dir={directory}/data",
            f"--listen-client-urls=http://{HOST}:{client}", f"--advertise-client-urls=http://{HOST}:{client}",
            f"--listen-peer-urls=http://{HOST}:{peer}", f"--initial-advertise-peer-urls=http://{HOST}:{peer}",
            f"--initial-cluster={cluster}", "--initial-cluster-state=new", "--log-level=error"], directory, client)

    def leader(self):
        for member in self.members:
            done = subprocess.run(["/usr/bin/etcdctl", f"--endpoints={member.address}", "endpoint", "status",
                                   "-w", "fields", "--command-timeout=1s"], capture_output=True, text=True,
                                  env={**os.environ, "ETCDCTL_API": "3"})
            said = dict(line.split(" : ", 1) for line in done.stdout.splitlines() if " : " in line)
            if said.get('"Leader"', "0") not in ("0", "") and said.get('"Leader"') == said.get('"MemberID"'):
                return member
        return None


class ZooKeeper(Rival):
    name = "zookeeper"
    load = "zookeeper-load"

    def member(self, i):
        directory = f"{self.directory}/m{i}"
        os.makedirs(f"{directory}/data")
        client = 21810 + i
        servers = "".join(f"server.{k + 1}={HOST}:{21820 + k}:{21830 + k}\n" for k in range(3))
        write(f"{directory}/zoo.cfg",
              f"tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={directory}/data\nclientPort={client}\n"
              f"clientPortAddress={HOST}\nmaxClientCnxns=0\nadmin.enableServer=false\n4lw.commands.whitelist=srvr\n"
              + servers)
        write(f"{directory}/data/myid", f"{i + 1}\n")
        return Member(f"m{i}", [
            "/usr/bin/java", "-Dzookeeper.root.logger=ERROR,CONSOLE", "-cp", "/usr/share/java/zookeeper.jar",
            "org.apache.zookeeper.server.quorum.QuorumPeerMain", f"{directory}/zoo.cfg"], directory, client)

    def leader(self):
        for member in self.members:
            try:
                with socket.create_connection((HOST, int(member.address.split(":")[1])), 1) as s:
                    s.sendall(b"srvr")
                    s.settimeout(1)
                    said = b""
                    while chunk := s.recv(4096):
                        said += chunk
            except OSError:
                continue
            if b"Mode: leader" in said:
                return member
        return None


def install():
    packages.install(PACKAGES)
