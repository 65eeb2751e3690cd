"""SCOOP as a transport: it survives its own processes' deaths, and strangers at its port."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.backends.submitted import LOOPBACK, digest, listening, result, start, waited

zmq = pytest.importorskip("zmq")
pytest.importorskip("scoop")


class Marker:
    """Touches a file when it is unpickled: harmless, and seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def attack(port: int, mark: Path) -> None:
    """Garbage, and every kind of message that SCOOP knows, with a pickle that leaves a mark."""
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(os.urandom(4096))
    evil = pickle.dumps(Marker(mark))
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.connect(f"tcp://127.0.0.1:{port}")
    for kind in (b"I", b"RQ", b"T", b"RP", b"S", b"V", b"B", b"SR", b"SA", b"SD", b"SU", b"C"):
        for count in range(5):
            dealer.send_multipart([kind, *[evil] * count])
    time.sleep(0.5)
    context.destroy(100)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of worker processes alone."""
    return digest(result(start("processes", tmp_path_factory.mktemp("store"))))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["scoop.worker", "scoop.driver", "cluster.hosts.agent"])
def test_a_killed_process_of_scoop_changes_nothing(
    victim: str, wanted: str, tmp_path: Path
) -> None:
    """After kill -9 of a worker, of driver and broker, or of the agent, the digest is the same."""
    run = start("scoop", tmp_path)
    waited(run, "scoop.worker")
    time.sleep(2.0)
    for pid in list(waited(run, victim))[:1]:
        os.kill(pid, signal.SIGKILL)
    assert digest(result(run)) == wanted != ""


@pytest.mark.slow
@pytest.mark.fault(8)
def test_a_host_that_was_silent_gets_fresh_workers(wanted: str, tmp_path: Path) -> None:
    """What was sent to the old ones meanwhile may be lost, which neither end would notice."""
    run = start("scoop", tmp_path)
    before = waited(run, "scoop.worker")
    time.sleep(2.0)
    (agent,) = waited(run, "cluster.hosts.agent")
    os.kill(agent, signal.SIGSTOP)
    time.sleep(8.0)
    os.kill(agent, signal.SIGCONT)
    end = time.monotonic() + 30
    while (after := waited(run, "scoop.worker")) & before:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert after
    assert digest(result(run)) == wanted != ""


@pytest.mark.slow
def test_strangers_at_the_port_change_nothing_and_run_nothing(wanted: str, tmp_path: Path) -> None:
    """Only the broker listens, at the named address alone, and drops what is not the run's own."""
    mark = tmp_path / "mark"
    run = start("scoop", tmp_path)
    workers = waited(run, "scoop.worker")
    (driver,) = waited(run, "scoop.driver")
    places = set(listening(driver))
    assert {address for address, _ in places} <= LOOPBACK
    assert places
    assert not [place for pid in workers for place in listening(pid)]
    for _, port in places:
        attack(port, mark)
    assert digest(result(run)) == wanted != ""
    assert not mark.exists()
