"""The network between the hosts of a lab: a bridge, alone in a network namespace of its own.

There no firewall of the machine has a say (Docker's drops what is forwarded between ports of other
bridges). The machine has one interface to it, with the dispatcher's address.
"""

from __future__ import annotations

import json
from pathlib import Path

from scripts.lab_base import SWITCH, Lab, LabError, keeper, keepers, number, run, wait, which

WAYS = {"both": "", "from": "ingress", "to": "egress"}


def free_subnet() -> str:
    """The first three numbers of addresses that this machine does not use yet."""
    used = run("ip", "-o", "-4", "address") + run("ip", "-4", "route")
    for third in range(256):
        if f" 10.83.{third}." not in used:
            return f"10.83.{third}"
    raise LabError("no subnet of 10.83.0.0/16 is free", "scripts/lab list shows all labs")


def inside(pid: int, *lines: str) -> None:
    """Have ip do these lines in the network namespace of a process."""
    run("nsenter", "-t", str(pid), "-n", "ip", "-batch", "-", given="\n".join(lines) + "\n")


def plug_dispatcher(lab: Lab) -> None:
    """Make the bridge, and the machine's interface to it."""
    switch = keeper(lab, SWITCH)
    run("ip", "link", "add", lab.link, "type", "veth", "peer", "dispatcher", "netns", str(switch))
    plugged = ["link set dispatcher master lab", "link set dispatcher up"]
    inside(switch, "link set lo up", "link add lab type bridge", "link set lab up", *plugged)
    run("ip", "address", "add", f"{lab.subnet}.254/24", "dev", lab.link)
    run("ip", "link", "set", lab.link, "up")


def plug(lab: Lab, host: str) -> None:
    """Give a host its interface eth0 and its address."""
    pid, switch = keeper(lab, host), keeper(lab, SWITCH)
    # The kernel takes the cable of a host that ended away, but not at once.
    remove = 'ip link delete "$0" 2>/dev/null || true'
    run("nsenter", "-t", str(switch), "-n", "sh", "-c", remove, host)
    cable = f"link add {host} type veth peer name eth0 netns {pid}"
    inside(switch, cable, f"link set {host} master lab", f"link set {host} up")
    address = f"address add {lab.subnet}.{number(host)}/24 dev eth0"
    inside(pid, "link set lo up", address, "link set eth0 up")


def unplug_dispatcher(lab: Lab) -> None:
    """Take the machine's interface away, where it is left."""
    # With the other end's namespace the kernel takes it away by itself, a little later.
    if Path("/sys/class/net", lab.link).exists():
        run("sh", "-c", 'ip link delete "$0" 2>/dev/null || true', lab.link)
    wait(f"{lab.link} to go", lambda: not Path("/sys/class/net", lab.link).exists())


def cut(lab: Lab, host: str, way: str) -> None:
    """Lose all packets, those from the host, or those to it. Nobody is told: no FIN, no reset."""
    if way == "both":
        return inside(keeper(lab, SWITCH), f"link set {host} down")
    return rule(lab, host, "cut", [WAYS[way]], "drop")


def lose(lab: Lab, host: str, percent: int, way: str) -> None:
    """Lose each packet with this probability, of both directions or of one; 0 undoes it."""
    forget_rules(lab, host, "lossy")
    if percent:
        hooks = [WAYS[way]] if way != "both" else ["ingress", "egress"]
        rule(lab, host, "lossy", hooks, f"numgen random mod 100 < {percent} drop")


def rule(lab: Lab, host: str, kind: str, hooks: list[str], verdict: str) -> None:
    """Add a table of rules for what passes a host's port at these hooks."""
    if not which("nft"):
        raise LabError("nft is not installed", "scripts/lab install", 69)
    table = f"netdev {kind}_{host}"
    lines = [f"add table {table}"]
    for hook in hooks:
        chain = f'type filter hook {hook} device "{host}" priority 0;'
        lines += [f"add chain {table} {hook} {{ {chain} }}", f"add rule {table} {hook} {verdict}"]
    run("nsenter", "-t", str(keeper(lab, SWITCH)), "-n", "nft", "-f", "-", given="\n".join(lines))


def narrow(lab: Lab, host: str, rate: int) -> None:
    """Limit a host's cable to so many kbit/s each way, behind a queue of half a second; 0: none."""
    if not which("tc"):
        raise LabError("tc is not installed", "scripts/lab install", 69)
    # The kernel's emulator of networks (netem) is missing in many; this one is not.
    shape = f"tbf rate {rate}kbit burst 4kb latency 500ms".split() if rate else ["noqueue"]
    for pid, end in cable(lab, host):
        words = ("qdisc", "replace", "dev", end, "root", *shape)
        run("nsenter", "-t", str(pid), "-n", "tc", *words)


def cable(lab: Lab, host: str) -> list[tuple[int, str]]:
    """Both ends of a host's cable: whose network namespace they are in, and their names."""
    return [(keeper(lab, SWITCH), host), (keeper(lab, host), "eth0")]


def heal(lab: Lab, host: str) -> None:
    """Undo every cut, loss and limit."""
    forget_rules(lab, host, "cut", "lossy")
    if which("tc"):  # some systems have it in a package of its own
        narrow(lab, host, 0)
    inside(keeper(lab, SWITCH), f"link set {host} up")
    # Who looked for the host in vain would hear "no route" for some seconds still.
    run("ip", "neighbour", "flush", "dev", lab.link, "nud", "all")
    for pid in {each for name, each in keepers(lab).items() if name != SWITCH}:
        inside(pid, "neighbour flush dev eth0 nud all")


def forget_rules(lab: Lab, host: str, *kinds: str) -> None:
    """Take the tables of these kinds of rules away, where they are."""
    switch = keeper(lab, SWITCH)
    for table in {f"{kind}_{host}" for kind in kinds} & set(tables(switch)):
        run("nsenter", "-t", str(switch), "-n", "nft", "delete", "table", "netdev", table)


def tables(switch: int) -> list[str]:
    """The names of all tables of packet rules, among other words."""
    if not which("nft"):
        return []
    return run("nsenter", "-t", str(switch), "-n", "nft", "list", "tables").split()


def faults(lab: Lab) -> dict[str, set[str]]:
    """By fault the hosts that have it: cut, one way or both; lossy; narrow."""
    standing = keepers(lab)
    if SWITCH not in standing:  # it was killed: the network went with it
        return {"cut": set(standing), "lossy": set(), "narrow": set()}
    switch = standing[SWITCH]
    links = json.loads(run("nsenter", "-t", str(switch), "-n", "ip", "-j", "link"))
    down = {link["ifname"] for link in links if "UP" not in link["flags"]}
    narrow = {link["ifname"] for link in links if link.get("qdisc") == "tbf"}
    ruled = [word.partition("_") for word in tables(switch)]
    one_way, lossy = ({host for kind, _, host in ruled if kind == k} for k in ("cut", "lossy"))
    return {"cut": down | one_way, "lossy": lossy, "narrow": narrow}
