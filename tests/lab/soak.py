# Rounds of clients at work, one deed against them, and proof that nothing was lost, done twice or seen out of order.
#
# clients.py works, nemesis.py harms, proof.py judges. Each round has a chance of its own, made from the seed and its
# number: so one round can be repeated alone. The choices of a run come from its seed; what the machine makes of them
# does not. A round that fails leaves the hosts frozen as they are.
import collections
import os
import random
import shutil
import statistics
import time

from . import cluster, packages
from .clients import WRITERS_PER_HOST, Reader, Writer
from .nemesis import BACK, KINDS, Nemesis
from .proof import Proof
from .tools import LabError, say, write

KILLS = ("agent", "all agents", "host", "all hosts", "power", "all power")
BROKE = r"Assertion|status=[0-9]*/(ABRT|SEGV|BUS|FPE|ILL|SYS)|watchdog timeout|stack smashing|double free"


class Soak:
    def __init__(self, fleet, hosts, seed, kinds=KILLS, longest=20):
        self.fleet, self.hosts, self.seed, self.longest = fleet, hosts, seed, longest
        self.kinds = [KINDS[name] for name in kinds if fleet.has_disks or not KINDS[name].disk]
        self.counts = {}     # (host, writer) -> writes so far
        self.proof = Proof(hosts)
        self.deeds = collections.defaultdict(list)  # kind -> seconds until all was well again
        self.began = int(time.time())

    @property
    def sums(self):
        return self.proof.sums

    def round(self, number):
        """Returns what was done, and what came of it, in words."""
        chance = random.Random(f"{self.seed}/{number}")
        nemesis = Nemesis(self.fleet, self.hosts, chance, self.longest)
        kind = chance.choices(self.kinds, [k.weight for k in self.kinds])[0]
        writers = [Writer(h, n, self.counts.get((h.name, n), 0)) for h in self.hosts for n in range(WRITERS_PER_HOST)]
        readers = [Reader(h, self.hosts) for h in self.hosts]
        for client in writers + readers:
            client.start()
        detail = "before its deed"
        try:
            time.sleep(chance.uniform(0.05, 1.0))
            detail = kind.do(nemesis)
            time.sleep(chance.uniform(0.0, 0.6))
            nemesis.mend()
            back = nemesis.await_back()
        except LabError as e:
            raise LabError(f"in a round of '{kind.name}' ({detail}): {e}")
        finally:
            self.end(writers + readers)
        self.deeds[kind.name].append(back)
        for writer in writers:
            self.counts[writer.host.name, writer.number] = writer.count
        writes, reads = [w for c in writers for w in c.writes], [r for c in readers for r in c.reads]
        told = f"{kind.name} {detail}".strip()
        try:
            self.proof.check(writes, reads, nemesis.strangers)
            self.check_journals()
        except LabError as e:
            raise LabError(f"after '{told}': {e}")
        return f"{told}; well again after {back:.1f} s; {len(writes)} writes, {len(reads)} reads"

    def end(self, clients):
        for client in clients:
            client.stop.set()
        for client in clients:
            client.join(60)
        for client in clients:
            if client.is_alive():
                raise LabError(f"a call on {client.host.name} never ended")
            if client.wrong:
                raise LabError(f"{client.host.name}: {client.wrong}")

    def check_journals(self):
        """No program may end by an assertion, a wild pointer or a missed watchdog; no deed asks for that."""
        for host in self.hosts:
            told = host.journal("-u", "treatyd.service", "-u", "treaty-units.service", f"--since=@{self.began}",
                                f"--grep={BROKE}", check=False)
            if told.strip():
                raise LabError(f"{host.name} broke down by itself:\n{told}")


def run_rounds(fleet, hosts, rounds, seed, kinds=KILLS, only=None, longest=20, told=say):
    """Runs the rounds on a formed cluster and returns the Soak with its sums; raises LabError where proof fails."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    soak = Soak(fleet, hosts, seed, kinds, longest)
    for number in range(1, rounds + 1) if only is None else [only]:
        began = time.monotonic()
        try:
            what = soak.round(number)
        except LabError as e:
            raise LabError(f"round {number} of seed {seed}: {e}")
        told(f"round {number}/{rounds}: {what}; {soak.sums['lost']} lost, {soak.sums['twice']} twice, "
             f"{soak.sums['divergent']} divergent; {time.monotonic() - began:.1f} s")
    return soak


def keep_evidence(fleet):
    """The hosts as they are, frozen, and what they said."""
    for host in fleet.hosts:
        try:
            text = host.journal("-o", "short-precise", "-u", "treatyd.service", "-u", "treaty-units.service", check=False)
            write(f"{host.dir}/journal.txt", text)
            if host.running and not host.paused:
                host.pause()
            if os.path.exists(f"{host.dir}/disk.img"):
                shutil.move(host.copy_disk(), f"{host.dir}/disk.evidence")
        except (LabError, OSError) as e:
            say(f"{host.name}: {e}")


def soak(fleet, rounds, seed, faults=False, n_hosts=3, kinds=None, only=None):
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    kinds = kinds or (tuple(KINDS) if faults else KILLS)
    for name in kinds:
        if name not in KINDS:
            raise LabError(f"there is no deed '{name}'; there are: {', '.join(KINDS)}")
    say(f"soak with --seed={seed}")
    packages.install(packages.TEST)
    with fleet.lock():
        try:
            hosts = fleet.up(n_hosts, disk="256M")
            cluster.form(hosts)
            done = run_rounds(fleet, hosts, rounds, seed, kinds, only)
        except LabError as e:
            say(e)
            keep_evidence(fleet)
            say(f"the hosts are frozen as they are; {fleet.dir}/hN holds journal.txt and disk.evidence of each")
            options = "".join([" --faults" if faults else "", f" --hosts={n_hosts}" if n_hosts != 3 else ""] +
                              ([f" --kind='{k}'" for k in kinds] if len(kinds) < len(KILLS) else []))
            say(f"to repeat: ./lab soak{options} --seed={seed} --rounds={rounds}; one round of it with --only=NUMBER")
            return 1
        fleet.down()
    summary(done, rounds)
    return 0


def summary(done, rounds):
    for kind, back in sorted(done.deeds.items()):
        print(f"{kind}: {len(back)}x, well again after {statistics.median(back):.1f} s (p50), {max(back):.1f} s (at most), "
              f"bound {BACK} s")
    sums = done.sums
    print(f"{sums['writes']} writes: {sums['done']} answered, {sums['unknown']} unknown at first ({sums['applied']} of them "
          f"applied), {sums['never']} never offered or decided never, {sums['nothing']} cut off without an answer")
    print(f"{sums['reads']} reads; all trees scrubbed and compared {sums['digests']} times, rot first found by that "
          f"{sums['rot found by a scrub']} times")
    print(f"{rounds} rounds, {sums['lost']} lost, {sums['twice']} applied twice, {sums['divergent']} divergent")
