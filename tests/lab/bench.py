# How fast treaty is on this machine, beside what the machine itself can do.
#
# The clients run in one process per host, each with its own connection to that host's private socket and one request in
# flight; the raw rate is one small append and fdatasync after the other on the disk the hosts live on. Only ratios say
# much: three hosts and all clients share this machine.
import multiprocessing
import os
import random
import statistics
import time

from . import cluster
from .bus import Bus
from .tools import say

KEYS = 10000
VALUE = b"v" * 256


def raw_fdatasync(directory, seconds):
    """fdatasyncs a second of 512-byte appends into a file that has its size already, as a log does it."""
    path = f"{directory}/fdatasync"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, bytes(8 << 20), 0)
        os.fsync(fd)
        count, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            os.pwrite(fd, VALUE * 2, (count * 512) % (8 << 20))
            os.fdatasync(fd)
            count += 1
        return count / (time.monotonic() - began)
    finally:
        os.close(fd)
        os.unlink(path)


def key(number):
    return f"/bench/{number:05}"


def one_call(bus, kind, number):
    """Sends one request of this kind; returns what collect() will know it by."""
    if kind == "write":
        return bus.send("Tree.Set", key(number), VALUE, 0, {})
    return bus.send("Tree.Get", key(number), 1 if kind == "linearizable" else 0, {})


def client(host, kind, lanes, seconds, ready, go, results, private):
    """`lanes` clients in one process. Each has a connection of its own, so the agent sees that many callers."""
    import selectors
    buses = [Bus(host, private=private) for _ in range(lanes)]
    choose, selector = random.Random(os.getpid()), selectors.DefaultSelector()
    for bus in buses:
        selector.register(bus.link.sock, selectors.EVENT_READ, bus)
    ready.release()
    go.wait()
    began, times, errors, sent = time.monotonic(), [], 0, {}
    for bus in buses:
        one_call(bus, kind, choose.randrange(KEYS))
        sent[bus] = time.monotonic()
    while sent and time.monotonic() - began < seconds + 15:
        for item, _ in selector.select(1):
            bus = item.data
            if bus not in sent:
                continue
            _, value = bus.collect()
            now = time.monotonic()
            times.append(now - sent.pop(bus))
            errors += isinstance(value, Exception)
            if now - began < seconds:
                one_call(bus, kind, choose.randrange(KEYS))
                sent[bus] = time.monotonic()
    results.put((times, errors, len(sent), time.monotonic() - began))
    for bus in buses:
        bus.close()


def measure(hosts, kind, clients, seconds, private=True):
    """(calls a second, p50, p99 in seconds, errors) of so many clients, spread over the hosts."""
    fork = multiprocessing.get_context("fork")
    ready, go, results = fork.Semaphore(0), fork.Event(), fork.Queue()
    lanes = [clients // len(hosts) + (n < clients % len(hosts)) for n in range(len(hosts))]
    workers = [fork.Process(target=client, args=(h, kind, n, seconds, ready, go, results, private), daemon=True)
               for h, n in zip(hosts, lanes) if n]
    for worker in workers:
        worker.start()
    for _ in workers:
        if not ready.acquire(timeout=20):
            raise RuntimeError("a client of the measurement could not connect")
    go.set()
    parts = [results.get(timeout=seconds + 60) for _ in workers]
    for worker in workers:
        worker.join(10)
    times = sorted(t for part in parts for t in part[0])
    if not times:
        return 0.0, 0.0, 0.0, sum(part[1] + part[2] for part in parts)
    return (len(times) / max(part[3] for part in parts), statistics.median(times),
            times[min(len(times) - 1, int(len(times) * 0.99))], sum(part[1] + part[2] for part in parts))


def fill(host):
    """So that reads find something: all keys, a hundred in flight."""
    with Bus(host, private=True) as bus:
        waiting = 0
        for number in range(KEYS):
            bus.send("Tree.Set", key(number), VALUE, 0, {})
            waiting += 1
            if waiting == 100:
                _, answer = bus.collect()
                waiting -= 1
                if isinstance(answer, Exception):
                    raise answer
        for _ in range(waiting):
            bus.collect()


def agent_memory_kib(host):
    pid = host.run("systemctl", "show", "--property=MainPID", "--value", "treatyd.service").stdout.strip()
    status = host.run("cat", f"/proc/{pid}/status").stdout
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


def agent_cpu_seconds(host):
    pid = host.run("systemctl", "show", "--property=MainPID", "--value", "treatyd.service").stdout.strip()
    stat = host.run("cat", f"/proc/{pid}/stat").stdout.rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def bench(fleet, seconds):
    with fleet.lock():
        hosts = fleet.up(3)
        cluster.form(hosts)
        try:
            table(fleet, hosts, seconds)
        finally:
            fleet.down()


def table(fleet, hosts, seconds):
    say("measuring the idle agents for 10 s")
    before = [agent_cpu_seconds(h) for h in hosts]
    time.sleep(10)
    idle = [(agent_cpu_seconds(h) - b) * 10 for h, b in zip(hosts, before)]
    memory = [agent_memory_kib(h) / 1024 for h in hosts]
    print(f"idle: {max(idle):.1f} % CPU, {max(memory):.1f} MiB RSS (the largest of three agents)")
    rate = raw_fdatasync(fleet.dir, min(seconds, 3))
    print(f"raw fdatasync here: {rate:.0f}/s, {1e3 / rate:.2f} ms each")
    fill(hosts[0])
    print(f"{'what':24}{'clients':>8}{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    for kind, counts in (("write", (1, 16, 64, 256)), ("local", (1, 64)), ("linearizable", (1, 64))):
        for clients in counts:
            per_second, p50, p99, errors = measure(hosts, kind, clients, seconds)
            print(f"{kind + ('' if kind == 'write' else ' read'):24}{clients:>8}{per_second:>12.0f}{p50 * 1e3:>9.2f}"
                  f"{p99 * 1e3:>9.2f}{errors:>8}", flush=True)
    memory = [agent_memory_kib(h) / 1024 for h in hosts]
    print(f"with {KEYS} entries of {len(VALUE)} bytes: {max(memory):.1f} MiB RSS")
