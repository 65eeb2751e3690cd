"""Who is on the hosts' network and no part of a run changes nothing of it, and runs nothing."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.hosts.process_tree import descendants
from scripts.lab_base import Lab as Named
from scripts.lab_base import keeper
from tests.lab.harness import ROOT, Lab
from tests.lab.site import Site, await_no_orphans

SILENT = {"ssh"}
# Open MPI ends a world that hears noise; the run goes on with another one.
GIVES_UP = {"mpi"}
LOOPBACK = {"127.0.0.1", "::1"}
SSHD = {22, 2222}
STRANGER = ROOT / "tests" / "lab" / "stranger.py"
MOST = 1 << 18
_EVERY_PACKET = 3


class Port(NamedTuple):
    """Something that listens: where it is, and what with."""

    place: str
    protocol: str
    address: str
    number: int


@pytest.mark.slow
@pytest.mark.fault(90, 91, 92, 102)
def test_a_stranger_changes_nothing_and_runs_nothing(
    every_backend: str, lab: Lab, tmp_path: Path
) -> None:
    """Noise, pickles and what was heard before, at every port that a run opened.

    h3 is a host of the network that is not in the spec. Ports are opened at the named addresses
    alone; backend ssh opens none.
    """
    site = Site(tmp_path, lab, every_backend, blocks=1000, nap=0.05, slots={"h1": 2, "h2": 1})
    before = {host: set(listening_on(lab, host)) for host in ("h1", "h2")}
    with recorded(lab) as heard:
        run = site.start()
        run.await_words("h1: 2 slots")
        run.await_words("h2: 1 slot")
        time.sleep(2)
        ports = {
            *(port for host in before for port in set(listening_on(lab, host)) - before[host]),
            *listening_here(),
        }
    assert bool(ports) == (every_backend not in SILENT), ports
    assert all(port.protocol.startswith("tcp") for port in ports), ports
    named = {"here": lab.dispatcher, **lab.hosts}
    assert not {port for port in ports if port.address not in {named[port.place], *LOOPBACK}}
    open_to_all = [port for port in ports if port.address not in LOOPBACK]
    mark = f"/var/tmp/mark-{os.getpid()}"
    places = [
        (named[port.place], port.number, heard.get((named[port.place], port.number), []))
        for port in open_to_all
    ]
    made = attack(lab, places, mark)
    assert run.process.poll() is None, "the run ended before the attack did"
    assert made > 20 * len(places) or not places
    assert not places or any(flows for *_, flows in places), "nothing was heard to be sent again"
    result = run.result()
    assert (result["state"], result["digest"]) == ("done", site.digest)
    assert result["failures"] == []
    if every_backend not in GIVES_UP:
        assert "0 slots" not in run.told, run.told
    assert not Path(mark).exists()
    for host in lab.hosts:
        assert lab.ask("exec", host, "test", "-e", mark).returncode == 1
    await_no_orphans(lab)


def attack(lab: Lab, places: list[tuple[str, int, list[str]]], mark: str) -> int:
    """Have h3 do its worst to these places; how many connections it made."""
    folder = Path("/proc", str(keeper(Named(lab.name), "h3")), "root", "srv")
    (folder / "stranger.py").write_text(STRANGER.read_text())
    (folder / "places.json").write_text(json.dumps(places))
    said = lab.exec("h3", lab.python, "/srv/stranger.py", "/srv/places.json", mark)
    return int(said)


# -- what listens ----------------------------------------------------------------------------------


def listening_on(lab: Lab, host: str) -> Iterator[Port]:
    """All that listens on a host, less its sshd."""
    for port, _ in _table(Path(f"/proc/{keeper(Named(lab.name), host)}/net"), host):
        if port.number not in SSHD:
            yield port


def listening_here() -> Iterator[Port]:
    """What listens of the processes that the tests have started."""
    mine = set()
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            mine |= {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    for port, inode in _table(Path("/proc/self/net"), "here"):
        if f"socket:[{inode}]" in mine:
            yield port


def _table(folder: Path, place: str) -> Iterator[tuple[Port, str]]:
    """As `ss -tulnp` lists them, with the inode of each."""
    for protocol, state in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in (folder / protocol).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state:
                address, number = fields[1].split(":")
                yield Port(place, protocol, _address(address), int(number, 16)), fields[9]


def _address(text: str) -> str:
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words)).removeprefix("::ffff:")


# -- what is heard ---------------------------------------------------------------------------------

Heard = dict[tuple[str, int], list[str]]


@contextmanager
def recorded(lab: Lab) -> Iterator[Heard]:
    """What goes over the hosts' network to and from here: the bytes of each connection, as hex.

    At the end of the block, by address and port that they were sent to.
    """
    heard: Heard = {}
    flows: dict[tuple[str, int, str, int], dict[int, bytes]] = defaultdict(dict)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PACKET)) as ear:
        ear.bind((f"lab-{lab.name}", 0))
        ear.settimeout(0.1)
        over = threading.Event()
        listener = threading.Thread(target=_listen, args=(ear, over, flows))
        listener.start()
        try:
            yield heard
        finally:
            over.set()
            listener.join()
    for (_, _, address, port), parts in flows.items():
        data = b"".join(parts[number] for number in sorted(parts))[:MOST]
        heard.setdefault((address, port), []).append(data.hex())


def _listen(
    ear: socket.socket,
    over: threading.Event,
    flows: dict[tuple[str, int, str, int], dict[int, bytes]],
) -> None:
    while not over.is_set():
        try:
            frame = ear.recv(1 << 17)
        except TimeoutError:
            continue
        packet = frame[14:]
        if frame[12:14] != b"\x08\x00" or packet[9] != socket.IPPROTO_TCP:
            continue
        segment = packet[4 * (packet[0] & 15) : struct.unpack(">H", packet[2:4])[0] or None]
        source, target, number = struct.unpack(">HHL", segment[:8])
        data = segment[4 * (segment[12] >> 4) :]
        if data and not {source, target} & SSHD:
            addresses = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
            flows[addresses[0], source, addresses[1], target].setdefault(number, data)
