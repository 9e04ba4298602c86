# The command line of the lab: one table of verbs.
#
# Exit status: 0 when it worked, 1 when it did not, 2 when it was asked wrongly; exec and shell give the status of what
# they ran.
import argparse
import os
import sys

from . import cluster
from .fleet import Fleet
from .tools import LabError, say

HELP = """\
Boots real systemd hosts on this machine to try, develop and test treaty. Each host has its own PID 1, system bus, disk
and network namespace; they see each other as h1, h2, ... on a network that leads nowhere else. What is missing on this
machine is installed with apt-get. Several labs live side by side when they have different names."""

EXAMPLES = """\
examples:
  ./lab demo                             see the whole story in a few minutes
  ./lab up 3                             three hosts, one cluster
  ./lab exec h2 treatyctl members
  ./lab cut h1 h2; ./lab heal            cut the link between two hosts, both ways; heal all links
  ./lab cut h1 h2 --one-way              h2 no longer hears h1
  ./lab crash h3; ./lab start h3         kill -9 of the whole host; boot it again from its disk
  ./lab --name=other up 5                a second lab beside the first
"""


def parser():
    # SUPPRESS, because a default in the verb's parser would overwrite what stood before the verb.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--name", metavar="NAME", help="name of the lab (default: $LAB_NAME, else 'lab')")
    top = argparse.ArgumentParser(prog="lab", description=HELP, epilog=EXAMPLES, parents=[common],
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = top.add_subparsers(dest="verb", metavar="COMMAND", required=True)

    def verb(name, function, text):
        p = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", parents=[common])
        p.set_defaults(function=function)
        return p

    demo = verb("demo", verb_demo, "install, build, boot three hosts, form a cluster and show what treaty does")
    demo.add_argument("--keep", action="store_true", help="leave the hosts running at the end")

    test = verb("test", verb_test, "build and run all tests; the last line reads 'N passed, N failed'")
    test.add_argument("part", nargs="*", help="only these parts: format, units, simulation, bank, hosts (default: all)")
    test.add_argument("-k", metavar="EXPRESSION", dest="only", help="only host tests whose names match, as in pytest")

    up = verb("up", verb_up, "boot N fresh hosts and form a cluster; a lab of the same name is removed first")
    up.add_argument("count", metavar="N", type=int)
    up.add_argument("--disk", metavar="SIZE", help="give each host an ext4 disk of this size (64M) for /var/lib/treaty")
    up.add_argument("--no-cluster", action="store_true", help="leave each host a cluster of one")
    up.add_argument("--no-build", action="store_true", help="install what build/ holds, without building")
    up.add_argument("--bare", action="store_true", help="plain Debian hosts without treaty")

    run = verb("exec", verb_exec, "run a command on a host; streams and exit status pass through")
    run.add_argument("host", metavar="HOST")
    run.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER)

    shell = verb("shell", verb_shell, "open a shell on a host")
    shell.add_argument("host", metavar="HOST")

    cut = verb("cut", verb_cut, "cut the link between two hosts, or between one and all others")
    cut.add_argument("one", metavar="A")
    cut.add_argument("other", metavar="B", nargs="?")
    cut.add_argument("--one-way", action="store_true", help="drop only what A sends")

    verb("heal", verb_heal, "heal all cut links")
    for name, function, text in (
            ("crash", verb_crash, "kill -9 whole hosts, at once"),
            ("powercut", verb_powercut, "take the power from hosts: unsynced data is lost (needs 'up --disk')"),
            ("start", verb_start, "boot hosts again from their disks"),
            ("pause", verb_pause, "freeze all processes of hosts"),
            ("resume", verb_resume, "let frozen hosts go on")):
        verb(name, function, text).add_argument("hosts", metavar="HOST", nargs="+")

    log = verb("log", verb_log, "show the journal of a host, also of one that is off")
    log.add_argument("host", metavar="HOST")
    log.add_argument("options", metavar="OPTION", nargs=argparse.REMAINDER, help="options for journalctl")

    verb("status", verb_status, "show the hosts, their state and the links that are cut")
    verb("down", verb_down, "remove the lab, in whatever state it is")

    soak = verb("soak", verb_soak, "write, kill and restart at random, and check that nothing is lost or done twice")
    soak.add_argument("--rounds", type=int, default=20, metavar="N")
    soak.add_argument("--seed", type=int, metavar="N", help="repeat the choices of an earlier run")
    soak.add_argument("--faults", action="store_true", help="not kills only: also cuts, pauses, full, hanging, rotten and old disks")
    soak.add_argument("--kind", action="append", metavar="DEED", help="only this deed; can be given more than once")
    soak.add_argument("--hosts", type=int, default=3, metavar="N", help="so many hosts; from the fourth on some observe")
    soak.add_argument("--only", type=int, metavar="ROUND", help="only one round of an earlier run")
    soak.add_argument("--minutes", type=float, metavar="N",
                      help="instead: simulate fresh seeds for so long (docs/SIMULATION.md), without hosts")
    soak.add_argument("--jobs", type=int, metavar="N", help="with --minutes: so many at a time (default: all cores)")
    soak.add_argument("--bank", action="store_true",
                      help="instead: search every planted bug anew with fresh seeds and print the table")

    coverage = verb("coverage", verb_coverage, "tell how much of raft, log and tree the tests run through")
    coverage.add_argument("--seeds", type=int, default=60, metavar="N", help="of the simulation")
    coverage.add_argument("--files", action="store_true", help="each file, too")

    simulate = verb("simulate", verb_simulate, "run the simulation of a whole cluster, as build/tests/sim/simulate")
    simulate.add_argument("arguments", metavar="ARGUMENT", nargs=argparse.REMAINDER,
                          help="SEED, --sqlite and the options of that program")

    bench = verb("bench", verb_bench, "measure treaty beside etcd and ZooKeeper on this machine")
    bench.add_argument("--rounds", type=int, metavar="N", help="how often each row is measured (3; --failover: 30)")
    bench.add_argument("--seconds", type=float, default=2, metavar="N", help="length of each measurement (2)")
    bench.add_argument("--quick", action="store_true", help="one round of one second, without what takes long")
    bench.add_argument("--failover", action="store_true", help="instead: how long nobody can write when a leader goes")
    bench.add_argument("--kind", action="append", metavar="END", help="with --failover: only this end of a leader")
    bench.add_argument("--scaling", action="store_true",
                       help="instead: more voters, more observers, larger trees, a thousand hosts in one process")
    bench.add_argument("--instructions", action="store_true",
                       help="instead: count those of a write and of a read, and write tests/bench/instructions.txt anew")
    bench.add_argument("--write", action="store_true", help="write what was measured into docs/PERFORMANCE.md")
    return top


def main(argv):
    if argv in ([], ["help"]):
        argv = ["--help"]
    # What stands behind 'simulate' is that program's: argparse would claim its options.
    options = parser().parse_args(argv[:1] if argv[0] == "simulate" and argv[1:] != ["--help"] else argv)
    try:
        if os.geteuid() != 0:
            raise LabError("booting hosts needs root: run it as 'sudo ./lab ...'")
        name = getattr(options, "name", None) or os.environ.get("LAB_NAME")
        own = {"demo": "demo", "test": "test", "soak": "soak", "bench": "bench"}.get(options.verb, "lab")
        return options.function(Fleet(name or own), options) or 0
    except LabError as e:
        say(e)
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 1


def verb_up(fleet, options):
    with fleet.lock():
        hosts = fleet.up(options.count, disk=options.disk, bare=options.bare, fresh=not options.no_build)
        if options.bare or options.no_cluster:
            return
        cluster.form(hosts)
        say(f"{', '.join(h.name for h in hosts)} are one cluster; './lab exec h1 treatyctl members' shows it")


def verb_exec(fleet, options):
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        print("usage: lab exec HOST CMD...", file=sys.stderr)
        return 2
    fleet.host(options.host).become(command)


def verb_shell(fleet, options):
    fleet.host(options.host).become(["bash", "--login"])


def verb_cut(fleet, options):
    with fleet.lock():
        fleet.cut(options.one, options.other, options.one_way)


def verb_heal(fleet, options):
    with fleet.lock():
        if fleet.hosts:
            fleet.heal()


def named(fleet, options):
    return [fleet.host(name) for name in dict.fromkeys(options.hosts)]


def verb_crash(fleet, options):
    with fleet.lock():
        fleet.crash(named(fleet, options))


def verb_powercut(fleet, options):
    with fleet.lock():
        fleet.powercut(named(fleet, options))


def verb_start(fleet, options):
    with fleet.lock():
        fleet.boot(named(fleet, options))


def verb_pause(fleet, options):
    with fleet.lock():
        for host in named(fleet, options):
            host.pause()


def verb_resume(fleet, options):
    with fleet.lock():
        for host in named(fleet, options):
            host.resume()


def verb_log(fleet, options):
    print(fleet.host(options.host).journal(*options.options), end="")


def verb_status(fleet, _):
    hosts = fleet.hosts
    if not hosts:
        print(f"lab '{fleet.name}' has no hosts; './lab up 3' makes some")
        return
    print(f"{'HOST':6}{'STATE':10}{'ADDRESS':14}{'PID 1':>8}")
    for host in hosts:
        print(f"{host.name:6}{host.state:10}{host.address:14}{host.find_init() or '-':>8}")
    try:
        cuts = fleet.net.cuts()
    except LabError:
        print("the network of this lab is gone; './lab up N' makes a new one")
        return
    for source, target in cuts:
        if (target, source) not in cuts:
            print(f"cut: {target} does not hear {source}")
        elif source < target:
            print(f"cut: {source} and {target} do not hear each other")


def verb_down(fleet, _):
    with fleet.lock():
        say(f"lab '{fleet.name}' is gone" if fleet.down() else f"there is no lab '{fleet.name}'")


def verb_demo(fleet, options):
    from . import story
    return story.tell(fleet, keep=options.keep)


def verb_test(fleet, options):
    from . import suite
    return suite.test(fleet, options.part, options.only)


def verb_soak(fleet, options):
    from . import soak
    if options.minutes:
        from . import simulation
        return simulation.soak(options.minutes, options.jobs)
    if options.bank:
        from . import suite
        return suite.search_bank()
    return soak.soak(fleet, options.rounds, options.seed, options.faults, options.hosts, options.kind, options.only)


def verb_coverage(_, options):
    from . import coverage
    return coverage.coverage(options.seeds, options.files)


def verb_simulate(fleet, options):
    from . import simulation
    return simulation.simulate(sys.argv[sys.argv.index("simulate") + 1:])


def verb_bench(fleet, options):
    if options.failover:
        from . import failover
        return failover.failover(fleet, options.rounds or 30, options.kind)
    if options.instructions:
        from . import bench
        return bench.instructions()
    if options.scaling:
        from . import scaling
        return scaling.scaling(fleet, options.rounds or 3, options.seconds, options.write)
    from . import compare
    if options.quick:
        return compare.compare(fleet, 1, 1, True, options.write)
    return compare.compare(fleet, options.rounds or 3, options.seconds, False, options.write)
