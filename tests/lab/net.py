# One bridge in a network namespace of its own, one cable to each host's namespace: nothing leaves the lab.
#
# The names of the bridge's ports are the names of the hosts, so a cut link is one nftables rule in the bridge ("from
# port h1 to port h2: drop") and the cuts that are in force can be read back from the kernel. Neither side of a cut can
# notice it but by silence, ARP included. Every lab may use the same addresses, because no two labs can see each other.
import json
import re

from .tools import LabError, run

NETWORK = "10.77.0"


def spaces():
    """The names of all network namespaces of this machine."""
    told = run("ip", "-json", "netns", "list").stdout.strip()
    return [entry["name"] for entry in json.loads(told)] if told else []


class Net:
    def __init__(self, lab):
        self.lab = lab
        self.space = f"treaty-{lab}-net"

    def host_space(self, host):
        return f"treaty-{self.lab}-{host}"

    def mine(self):
        pattern = re.compile(rf"treaty-{re.escape(self.lab)}-(net|h[0-9]+)")
        return [space for space in spaces() if pattern.fullmatch(space)]

    def create(self):
        run("ip", "netns", "add", self.space)
        self.ip("link", "set", "lo", "up")
        # No spanning tree, no multicast snooping: frames pass from the first one on.
        self.ip("link", "add", "bridge", "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
        self.ip("link", "set", "bridge", "up")
        self.nft("add table bridge cuts\n"
                 "add chain bridge cuts forward { type filter hook forward priority 0; policy accept; }\n")

    def destroy(self):
        for space in self.mine():
            run("ip", "netns", "delete", space)

    def plug(self, host, address):
        """Gives a host its namespace, cable and address."""
        self.remove(host)
        space = self.host_space(host)
        run("ip", "netns", "add", space)
        # One host, one hardware address, as long as it lives: neighbours remember it over a reboot.
        mac = "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))
        self.ip("link", "add", host, "type", "veth", "peer", "name", "host0", "address", mac, "netns", space)
        self.ip("link", "set", host, "master", "bridge", "up")
        run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "host0")
        run("ip", "-n", space, "link", "set", "host0", "up")

    def unplug(self, host):
        """Takes the cable out on the bridge's side: peers meet silence, and no last word of the host gets through."""
        run("ip", "-n", self.space, "link", "set", host, "down", check=False)

    def remove(self, host):
        """The end of the host's cable and namespace. The cable by name: a program that a test runs in the namespace
        keeps it alive, and the cable with it."""
        run("ip", "-n", self.space, "link", "delete", host, check=False)
        if self.host_space(host) in spaces():
            run("ip", "netns", "delete", self.host_space(host))

    def cut(self, source, target):
        """Drops everything from source to target; the other way stays open."""
        if (source, target) not in self.cuts():
            self.nft(f'add rule bridge cuts forward iifname "{source}" oifname "{target}" drop\n')

    def isolate(self, host):
        """Cuts a host off from all at one moment, both ways."""
        self.nft(f'add rule bridge cuts forward iifname "{host}" drop\n'
                 f'add rule bridge cuts forward oifname "{host}" drop\n')

    def heal(self):
        self.nft("flush chain bridge cuts forward\n")

    def cuts(self):
        told = run("ip", "netns", "exec", self.space, "nft", "list", "chain", "bridge", "cuts", "forward").stdout
        return re.findall(r'iifname "(\w+)" oifname "(\w+)" drop', told)

    def ip(self, *argv):
        return run("ip", "-n", self.space, *argv)

    def nft(self, script):
        return run("ip", "netns", "exec", self.space, "nft", "-f", "-", input=script)


def address(number):
    if not 1 <= number <= 200:
        raise LabError(f"a lab has at most 200 hosts; h{number} is not one of them")
    return f"{NETWORK}.{number}"
