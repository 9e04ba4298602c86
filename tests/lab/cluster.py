# treaty on the hosts of a lab: how a cluster is formed and seen.
#
# Only this file knows the words of treatyctl by which hosts join; the commands are those a user types.
import json
import time

from .tools import LabError, until


def form(hosts, timeout=30):
    """Makes one cluster of these hosts: a token on the first, join on the others, then waits until all agree."""
    first, others = hosts[0], hosts[1:]
    until(lambda: agent_answers(first), timeout, f"the agent on {first.name}")
    if others:
        ticket = token(first, f"--uses={len(others)}")
        for host in others:
            until(lambda: agent_answers(host), timeout, f"the agent on {host.name}")
            join(host, ticket)
    wait_formed(hosts, timeout)


def token(host, *options):
    return host.run("treatyctl", "token", *options).stdout.strip().splitlines()[-1].strip()


def try_token(host):
    """A token, or None when the host cannot make one just now."""
    done = host.run("treatyctl", "token", check=False, timeout=30)
    return done.stdout.strip().splitlines()[-1].strip() if done.returncode == 0 else None


def join(host, ticket):
    return host.run("treatyctl", "join", ticket, timeout=40)


def agent_answers(host):
    return host.run("treatyctl", "status", check=False, timeout=20).returncode == 0


def members(host):
    """What one host knows of all: a list of dicts with name, id, address, role, leader, applied, connected."""
    done = host.run("treatyctl", "members", "--json=short", check=False, timeout=20)
    if done.returncode != 0:
        return []
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise LabError(f"{host.name}: 'treatyctl members --json=short' prints what is not JSON: {done.stdout[:200]!r}")


def voters_wanted(n):
    """The odd numbers DESIGN names: 1, 3 with the third host, 5 from seven hosts on."""
    return 1 if n < 3 else 3 if n < 7 else 5


def voters_possible(n):
    """With Voters=7 there are seven from nine hosts on."""
    return 7 if n >= 9 else voters_wanted(n)


def wait_formed(hosts, timeout=30, voters=None):
    """Until every host sees all members, the wanted number of voters, and one leader."""
    names = {h.name for h in hosts}
    voters = voters or voters_wanted(len(names))
    seen = {}

    def formed(host):
        seen[host.name] = table = members(host)
        return ({m["name"] for m in table} == names and sum(bool(m["leader"]) for m in table) == 1
                and sum(m["role"] == "voter" for m in table) == voters)

    deadline = time.monotonic() + timeout
    for host in hosts:
        until(lambda: formed(host), max(1, deadline - time.monotonic()), step=0.1,
              what=lambda: f"{host.name} to see {', '.join(sorted(names))} as members with one leader; "
                           f"it sees {json.dumps(seen[host.name])}")


def leader(hosts, timeout=15):
    """The host that leads, as the hosts that are up see it."""
    by_name = {h.name: h for h in hosts}

    def look():
        for host in hosts:
            if host.state == "running":
                for m in members(host):
                    if m["leader"] and by_name.get(m["name"]) and by_name[m["name"]].state == "running":
                        return by_name[m["name"]]
        return None

    return until(look, timeout, "a leader that is up", step=0.1)
