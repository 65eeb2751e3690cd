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
    switch = keeper(lab, SWITCH)
    if way == "both":
        return inside(switch, f"link set {host} down")
    if not which("nft"):
        raise LabError("nft is not installed", "scripts/lab install", 69)
    chain = f'type filter hook {WAYS[way]} device "{host}" priority 0; policy drop;'
    rules = f"add table netdev cut_{host}\nadd chain netdev cut_{host} lost {{ {chain} }}\n"
    run("nsenter", "-t", str(switch), "-n", "nft", "-f", "-", given=rules)
    return None


def heal(lab: Lab, host: str) -> None:
    """Undo every cut."""
    switch = keeper(lab, SWITCH)
    if f"cut_{host}" in one_way_cuts(switch):
        table = f"cut_{host}"
        run("nsenter", "-t", str(switch), "-n", "nft", "delete", "table", "netdev", table)
    inside(switch, f"link set {host} up")
    # Who looked for the host in vain would hear "no route" for some seconds still.
    run("ip", "neighbour", "flush", "dev", lab.link, "nud", "all")
    for pid in {each for name, each in keepers(lab).items() if name != SWITCH}:
        inside(pid, "neighbour flush dev eth0 nud all")


def one_way_cuts(switch: int) -> list[str]:
    """The tables of packet rules that `cut` made."""
    if not which("nft"):
        return []
    return run("nsenter", "-t", str(switch), "-n", "nft", "list", "tables").split()


def is_cut(lab: Lab) -> set[str]:
    """The hosts that are cut, one way or both."""
    switch = keeper(lab, SWITCH)
    links = json.loads(run("nsenter", "-t", str(switch), "-n", "ip", "-j", "link"))
    down = {link["ifname"] for link in links if "UP" not in link["flags"]}
    return down | {word[4:] for word in one_way_cuts(switch) if word.startswith("cut_")}
