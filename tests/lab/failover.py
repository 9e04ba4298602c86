# How long nobody can write when a leader goes: killed, frozen, cut off, with a hanging disk, or as planned.
#
# A client on another host sends a write every 5 ms, whatever became of those before, over the private socket. So the answer
# that comes first after the deed was not delayed by a call that the client itself waited for. For an unplanned end the
# figure is the time from the beginning of the deed to the first answer of a write that was sent when it was done; for a
# planned one, the longest that any write took.
import os
import random
import signal
import threading
import time

from . import cluster
from .bench import Agent
from .bus import Bus, BusError, Gone
from .host import write_once
from .nemesis import hanging, healthy
from .tools import LabError, say, until

EVERY = 0.005
BOUNDS = {  # kind -> seconds: (p50, p99)
    "leader's agent killed": (0.3, 1.5),
    "leader's host killed": (1.2, 2),
    "leader's host frozen": (1.2, 2),
    "leader's host cut off": (1.2, 2),
    "leader's disk hangs": (3, 3),
    "treatyctl transfer": (0.15, 0.15),
    "leader's agent stopped": (0.15, 0.15),
}


class Stream:
    """Writes from one host, one every 5 ms, and when each was answered."""

    def __init__(self, host):
        self.bus = Bus(host, private=True)
        self.host, self.sent, self.answered = host, {}, {}
        self.errors, self.stop = {}, threading.Event()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    def send(self):
        n, due = 0, time.monotonic()
        while not self.stop.is_set():
            n += 1
            at = time.monotonic()
            serial = self.bus.send("Tree.Set", f"/failover/{self.host.name}/{n % 8}", str(n).encode(), 0,
                                   {"timeout-usec": ("t", 8_000_000)})
            self.sent[serial] = at
            due = max(due + EVERY, at)
            time.sleep(max(0, due - time.monotonic()))

    def receive(self):
        while not (self.stop.is_set() and len(self.answered) + len(self.errors) >= len(self.sent)):
            try:
                serial, answer = self.bus.collect(0.5)
            except TimeoutError:
                if self.stop.is_set():
                    return
                continue
            except (Gone, OSError):
                return
            if isinstance(answer, BusError):
                self.errors[serial] = answer.name
            else:
                self.answered[serial] = time.monotonic()

    def first_after(self, began, timeout=20):
        """Seconds from the beginning of a deed to the first answer of a write that is sent from now on."""
        done = time.monotonic()

        def first():
            answers = [at for serial, at in list(self.answered.items()) if self.sent.get(serial, 0) > done]
            return min(answers) if answers else None
        return until(first, timeout, "a write to be answered", step=0.01) - began

    def longest(self, since):
        """The longest that a write sent after a moment took."""
        time.sleep(1)
        return max(at - self.sent[serial] for serial, at in list(self.answered.items()) if self.sent.get(serial, 0) > since)

    def close(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(10)
        self.bus.close()


class Failover:
    def __init__(self, fleet, hosts):
        self.fleet, self.hosts = fleet, hosts

    def settle(self):
        """All well, and as it was for a while: a cluster that has just recovered says nothing about one in peace."""
        self.fleet.boot([h for h in self.hosts if not h.running])
        for host in self.hosts:
            until(lambda: healthy(host), 30, f"{host.name} to be well", step=0.1)
        cluster.wait_formed(self.hosts)
        time.sleep(1 + random.random())

    def once(self, kind):
        self.settle()
        lead = cluster.leader(self.hosts)
        stream = Stream(random.choice([h for h in self.hosts if h.name != lead.name]))
        try:
            time.sleep(0.3 + 0.2 * random.random())
            return {"leader's agent killed": self.agent_killed, "leader's host killed": self.host_killed,
                    "leader's host frozen": self.host_frozen, "leader's host cut off": self.cut_off,
                    "leader's disk hangs": self.disk_hangs, "treatyctl transfer": self.transfer,
                    "leader's agent stopped": self.stopped}[kind](lead, stream)
        finally:
            stream.close()

    def agent_killed(self, lead, stream):
        pid, began = Agent(lead).pid, time.monotonic()
        os.kill(pid, signal.SIGKILL)
        return stream.first_after(began)

    def host_killed(self, lead, stream):
        began = time.monotonic()
        self.fleet.net.unplug(lead.name)
        write_once(f"{lead.cgroup}/cgroup.kill", "1")
        took = stream.first_after(began)
        self.fleet.crash([lead])
        return took

    def host_frozen(self, lead, stream):
        began = time.monotonic()
        lead.pause()
        try:
            return stream.first_after(began)
        finally:
            lead.resume()

    def cut_off(self, lead, stream):
        began = time.monotonic()
        self.fleet.net.isolate(lead.name)
        try:
            return stream.first_after(began)
        finally:
            self.fleet.heal()

    def disk_hangs(self, lead, stream):
        disk, began = hanging(lead), time.monotonic()
        with disk:
            return stream.first_after(began)

    def transfer(self, lead, stream):
        began = time.monotonic() - 0.05
        with Bus(lead) as bus:
            bus.call("Cluster.TransferLeadership", "")
        return stream.longest(began)

    def stopped(self, lead, stream):
        began = time.monotonic() - 0.05
        lead.run("systemctl", "stop", "treatyd.service")
        took = stream.longest(began)
        lead.run("systemctl", "start", "treatyd.service")
        return took


def rank(values, share):
    """The smallest value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def failover(fleet, rounds, kinds=None):
    for kind in kinds or []:
        if kind not in BOUNDS:
            raise LabError(f"there is no end '{kind}' of a leader; there are: {', '.join(BOUNDS)}")
    missed = 0
    with fleet.lock():
        hosts = fleet.up(3, disk="128M")
        cluster.form(hosts)
        work = Failover(fleet, hosts)
        print("| what | rounds | p50 s | p99 s | max s | bound p50, p99 |\n|---|---|---|---|---|---|", flush=True)
        for kind in kinds or BOUNDS:
            took = []
            for number in range(1, rounds + 1):
                took.append(work.once(kind))
                say(f"{kind} {number}/{rounds}: {took[-1]:.3f} s")
            p50, p99 = rank(took, 0.5), rank(took, 0.99)
            held = p50 <= BOUNDS[kind][0] and p99 <= BOUNDS[kind][1]
            missed += not held
            print(f"| {kind} | {rounds} | {p50:.3f} | {p99:.3f} | {max(took):.3f} | {BOUNDS[kind][0]}, {BOUNDS[kind][1]}"
                  f"{'' if held else ' MISSED'} |", flush=True)
        fleet.down()
    return 1 if missed else 0
