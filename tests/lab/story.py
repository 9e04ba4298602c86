# The demonstration: what treaty does, told by real commands on real hosts and their real output.
#
# Every step is checked while it is shown. A story that only looks right ends with exit status 1 at the sentence that did
# not hold.
import re
import subprocess
import sys
import threading
import time

from . import cluster
from .tools import LabError, say, until

BUSCTL = ["busctl", "call", "org.treaty1", "/org/treaty1", "org.treaty1.Tree"]

WEB = """\
[Unit]
Description=A web server, in spirit

[Service]
ExecStart=sleep infinity

[X-Treaty]
Service=web
Port=8080

[Install]
WantedBy=multi-user.target
"""
PROXY = "[Service]\nExecStart=sleep infinity\nExecReload=echo read the configuration again\n"
PROXY_DROPIN = "[X-Treaty]\nWatch=/config/web\nOnChange=reload-or-restart\n"
REPORT = "[Service]\nType=oneshot\nExecStart=echo made a report of the change\n\n" \
         "[X-Treaty]\nWatch=/config/web\nOnChange=start\n"
SESSION_TIMEOUT = 5


class Story:
    def __init__(self, fleet):
        self.fleet = fleet
        self.began = time.monotonic()
        self.checks = 0

    # -- telling --------------------------------------------------------------------------------------------------

    def heading(self, text):
        print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)

    def tell(self, text):
        print(f"   {text}", flush=True)

    def show(self, host, *command, status=0, timeout=40):
        """Runs a command on a host, echoes it with its output and returns that; its status must be `status`."""
        print(f"{host.name}# {' '.join(quoted(c) for c in command)}", flush=True)
        done = host.run(*command, check=False, timeout=timeout)
        for line in (done.stdout + done.stderr).rstrip("\n").split("\n"):
            print(f"     {line}", flush=True)
        wanted = (status,) if isinstance(status, int) else status
        self.check(done.returncode in wanted, f"exit status {done.returncode}", quiet=done.returncode == 0)
        return done.stdout

    def show_file(self, host, path, text):
        print(f"{host.name}# cat {path}", flush=True)
        for line in text.rstrip("\n").split("\n"):
            print(f"     {line}")
        host.write(path, text)

    def check(self, held, what, quiet=False):
        self.checks += 1
        if not held:
            raise LabError(f"the story does not hold: {what}")
        if not quiet:
            self.tell(f"✓ {what}")

    def eventually(self, condition, timeout, what):
        """Checks what needs a moment, and tells how long it took."""
        began = time.monotonic()
        try:
            until(condition, timeout, what, step=0.05)
        except LabError as e:
            raise LabError(f"the story does not hold: {e}")
        took = time.monotonic() - began
        self.check(True, f"{what}, after {took:.1f} s" if took >= 0.15 else what)
        return took

    # -- the seven points -----------------------------------------------------------------------------------------

    def cluster(self):
        self.heading("1. Three hosts become one cluster")
        h1, h2, h3 = self.hosts
        for host in self.hosts:
            until(lambda: cluster.agent_answers(host), 20, f"the agent on {host.name}")
        self.tell("each host starts as a cluster of one, usable at once")
        self.show(h1, "treatyctl", "members")
        for host in (h2, h3):
            token = self.show(h1, "treatyctl", "token").strip().splitlines()[-1].strip()
            self.show(host, "treatyctl", "join", token)
        cluster.wait_formed(self.hosts)
        self.show(h1, "treatyctl", "members")
        table = cluster.members(h1)
        self.check([m["role"] for m in table] == ["voter"] * 3, "three voters")
        self.check(sum(bool(m["leader"]) for m in table) == 1, "one of them leads")

    def tree(self):
        self.heading("2. A value written on one host is read on another")
        _, h2, h3 = self.hosts
        told = self.show(h2, *BUSCTL, "SetText", "ss", "/config/web/port", "8080")
        revision = re.fullmatch(r"t (\d+)", told.strip())
        self.check(revision is not None, "the write answers its revision, t N")
        until(lambda: h3.run("treatyctl", "get", "/config/web/port", check=False).returncode == 0, 5, "the value on h3")
        read = self.show(h3, *BUSCTL, "GetText", "s", "/config/web/port")
        self.check(read.strip() == f'st "8080" {revision.group(1)}', "h3 reads the same value at the same revision")

    def units(self):
        self.heading("3. Units react to changes")
        h1, h2, h3 = self.hosts
        h3.write("/etc/systemd/system/proxy.service", PROXY)
        self.show_file(h3, "/etc/systemd/system/proxy.service.d/treaty.conf", PROXY_DROPIN)
        self.show_file(h1, "/etc/systemd/system/report.service", REPORT)
        for host in (h1, h3):
            self.show(host, "systemctl", "daemon-reload")
        self.show(h3, "systemctl", "start", "proxy.service")
        for host, unit in ((h3, "proxy.service"), (h1, "report.service")):
            until(lambda: unit in host.run("treatyctl", "triggers").stdout, 10, f"{unit} in treatyctl triggers")
        time.sleep(1.5)  # what a new trigger finds already there has been handled by then
        reloads, starts = self.told(h3, "proxy", "again"), self.told(h1, "report", "made a report")
        self.show(h2, "treatyctl", "set", "/config/web/port", "8081")
        self.eventually(lambda: self.told(h3, "proxy", "again") > reloads, 10, "h3 reloaded proxy.service")
        self.eventually(lambda: self.told(h1, "report", "made a report") > starts, 10, "h1 started report.service")
        self.show(h3, "journalctl", "-u", "proxy.service", "-n", "5", "--no-pager")
        self.show(h1, "journalctl", "-u", "report.service", "-n", "5", "--no-pager")
        self.show(h1, "treatyctl", "triggers")

    def told(self, host, unit, text):
        return host.journal("-u", f"{unit}.service", "-o", "cat").count(text)

    def services(self):
        self.heading("4. Services are where their units are active")
        h1, h2, h3 = self.hosts
        self.show_file(h1, "/etc/systemd/system/web.service", WEB)
        for host in self.hosts:
            host.write("/etc/systemd/system/web.service", WEB)
            host.run("systemctl", "daemon-reload")
            self.show(host, "systemctl", "enable", "--now", "--quiet", "web.service")
        self.eventually(lambda: all(self.web(h) == {"h1", "h2", "h3"} for h in self.hosts), 10, "every host lists three instances")
        self.show(h2, "treatyctl", "services")
        self.show(h3, "busctl", "call", "org.treaty1", "/org/treaty1", "org.treaty1.Services", "Resolve", "st", "web", "0")
        self.show(h2, "systemctl", "stop", "web.service")
        took = self.eventually(lambda: self.web(h1) == {"h1", "h3"}, 3, "h1 no longer lists h2's instance, and only that")
        self.check(took < 1, "well under a second")
        self.show(h2, "systemctl", "start", "web.service")
        self.eventually(lambda: self.web(h1) == {"h1", "h2", "h3"}, 5, "it is back with its unit")
        lead = cluster.leader(self.hosts)
        dead = next(h for h in reversed(self.hosts) if h.name != lead.name)
        self.crash(dead)
        alive = next(h for h in self.hosts if h is not dead)
        left = {h.name for h in self.hosts} - {dead.name}
        self.eventually(lambda: self.web(alive) == left, SESSION_TIMEOUT + 4,
                        f"{dead.name}'s instance ended with its session of {SESSION_TIMEOUT} s")
        self.show(alive, "treatyctl", "services")
        self.start(dead)
        self.eventually(lambda: self.web(alive) == {"h1", "h2", "h3"}, 20, f"{dead.name} is back, and its web.service by itself")

    def web(self, host):
        told = host.run("treatyctl", "services", check=False).stdout
        return set(re.findall(r"\bweb\b.*?\b(h[123])\b", told))

    def watch(self):
        self.heading("5. One host follows what another writes")
        h1, h2, _ = self.hosts
        print("h1# treatyctl watch /config", flush=True)
        following = h1.popen("treatyctl", "watch", "/config", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        lines = []

        def follow():
            for line in following.stdout:
                lines.append(line)
                print(f"     {line.rstrip()}", flush=True)

        reader = threading.Thread(target=follow, daemon=True)
        reader.start()
        try:
            time.sleep(0.7)
            for argv in (("set", "/config/web/port", "8082"), ("set", "/config/db/host", "h3"), ("delete", "/config/db/host")):
                self.show(h2, "treatyctl", *argv)
                time.sleep(0.3)
            self.eventually(lambda: len([line for line in lines if "/config/" in line]) >= 3, 5, "h1 saw all three changes")
        finally:
            following.kill()
            following.wait()
            reader.join(5)

    def crashes(self):
        self.heading("6. Hosts die")
        lead = cluster.leader(self.hosts)
        dead = next(h for h in self.hosts if h.name == lead.name)
        other = next(h for h in self.hosts if h is not dead)
        self.tell(f"{dead.name} leads")
        self.crash(dead)
        began = time.monotonic()
        self.show(other, *BUSCTL, "SetText", "ss", "/config/web/port", "8083")
        took = time.monotonic() - began
        self.check(took < 3, f"a write on {other.name} succeeded {took:.1f} s after its leader died")
        self.start(dead)
        self.eventually(lambda: self.value(dead) == "8083", 15, f"{dead.name} caught up")
        self.tell("now all three at once")
        before = {h.name: h.run("treatyctl", "list", "/config").stdout for h in self.hosts}
        self.crash(*self.hosts)
        self.start(*self.hosts)
        cluster.wait_formed(self.hosts)
        for host in self.hosts:
            self.eventually(lambda: host.run("treatyctl", "list", "/config", check=False).stdout == before[host.name], 15,
                            f"{host.name} holds everything")
        self.show(other, *BUSCTL, "GetText", "s", "/config/web/port")

    def cut(self):
        self.heading("7. A link is cut")
        lead = cluster.leader(self.hosts)
        lone = next(h for h in self.hosts if h.name != lead.name)
        far = next(h for h in self.hosts if h is not lone)
        invocation = self.invocation(lone)
        flight = lone.popen("sh", "-c", "i=0; while [ $i -lt 100 ]; do i=$((i+1)); treatyctl set /flight/$i x 2>&1 "
                            "|| exit $?; done", stdout=subprocess.PIPE, text=True)
        time.sleep(0.4)
        print(f"# ./lab cut {lone.name}", flush=True)
        self.fleet.cut(lone.name)
        self.tell(f"{lone.name} hears nobody, and nobody hears it; a write was on its way at that moment")
        time.sleep(3)
        began = time.monotonic()
        told = lone.run(*BUSCTL, "SetText", "ss", "/config/web/port", "9999", check=False, timeout=30)
        took = time.monotonic() - began
        print(f"{lone.name}# {' '.join(BUSCTL)} SetText ss /config/web/port 9999\n     {told.stderr.strip()}", flush=True)
        named = lone.run("treatyctl", "set", "/config/web/port", "9999", check=False, timeout=30)
        print(f"{lone.name}# treatyctl set /config/web/port 9999\n     {named.stderr.strip()}", flush=True)
        self.check(told.returncode != 0 and named.returncode == 6, "a write on the minority side gets NoQuorum")
        self.check(took < 10.5, f"within 10 s ({took:.1f} s)")
        self.check(self.value(lone) == "8083", "reads go on there")
        self.check(self.invocation(lone) == invocation, "units stay as they are")
        self.show(far, "treatyctl", "set", "/config/web/port", "8084")
        print("# ./lab heal", flush=True)
        self.fleet.heal()
        self.eventually(lambda: self.value(lone) == "8084", 15, f"{lone.name} caught up; its refused writes never happened")
        self.outcome(lone, far, flight)

    def outcome(self, lone, far, flight):
        """The write that was in flight at the cut: what it was told must be what happened."""
        told = flight.communicate(timeout=60)[0].strip()
        self.tell(f"the write in flight at the cut was told: {told or 'that it was done'}")
        cluster.wait_formed(self.hosts)
        written = far.run("treatyctl", "list", "/flight", check=False).stdout
        count = len(set(re.findall(r"/flight/(\d+)", written)))
        request = re.search(r"request ([0-9a-f]+\.\d+)", told)
        if request:
            read = self.show(lone, *BUSCTL, "Outcome", "s", request.group(1))
            self.check(re.match(r'st "(applied|never)" \d+', read) is not None, "its outcome is definite now")
        else:
            self.check(not told or flight.returncode == 6, f"it was never offered, and {count} writes before it were done")

    # -- small helpers --------------------------------------------------------------------------------------------

    def value(self, host):
        return host.run("treatyctl", "get", "/config/web/port", check=False).stdout.strip()

    def invocation(self, host):
        return host.run("systemctl", "show", "--property=InvocationID,NRestarts", "web.service").stdout

    def crash(self, *hosts):
        print(f"# ./lab crash {' '.join(h.name for h in hosts)}", flush=True)
        self.fleet.crash(list(hosts))

    def start(self, *hosts):
        print(f"# ./lab start {' '.join(h.name for h in hosts)}", flush=True)
        self.fleet.boot(list(hosts))

    def whole(self):
        self.hosts = self.fleet.up(3)
        for point in (self.cluster, self.tree, self.units, self.services, self.watch, self.crashes, self.cut):
            point()
        self.heading(f"All seven points held: {self.checks} checks, {time.monotonic() - self.began:.0f} s in all")


def quoted(word):
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def tell(fleet, keep=False):
    with fleet.lock():
        try:
            Story(fleet).whole()
        except LabError as e:
            say(e)
            say(f"the hosts are left as they are: './lab --name={fleet.name} log h1 -u treatyd' may tell why, "
                f"'./lab --name={fleet.name} down' removes them")
            return 1
        if keep:
            say(f"the hosts go on: './lab --name={fleet.name} shell h1', './lab --name={fleet.name} down'")
        else:
            fleet.down()
    return 0
