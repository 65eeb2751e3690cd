"""SCOOP's broker behind its gate, and what an engine does where SCOOP cannot be used."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import Items, Options, Pause, Source
from cluster.backends.scoop.engine import Engine
from cluster.hosts.nodes import Node
from cluster.hosts.process_tree import descendants
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Outcome, Task
from cluster.testing import work_of

zmq = pytest.importorskip("zmq")
pytest.importorskip("scoop")

from scoop.broker import brokerzmq  # noqa: E402

from cluster.backends.kit import curve  # noqa: E402 - it imports zmq
from cluster.backends.scoop.broker import Broker  # noqa: E402 - it imports scoop

SECRET = "a" * 64
Speak = Callable[..., "Speaker"]
# Of TEST-NET-1: no machine has it.
NOWHERE = "192.0.2.1"
SLOW = """
import time
from pathlib import Path
from cluster import Hits

def f(stream, samples):
    block = stream.counter[2] + (stream.counter[3] << 32)
    Path({folder!r}, str(block)).touch()
    time.sleep({seconds} * (samples < 1000))
    return Hits(0, samples)
"""


class Mark:
    """Touches a file when it is unpickled: harmless, and seen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def broker() -> Iterator[Broker]:
    """One at work."""
    broker = Broker(SECRET)
    yield broker
    # As a worker of SCOOP would end it, if the gate let that pass.
    broker.gate._due.append([b"", brokerzmq.SHUTDOWN])
    broker._thread.join(10)
    assert not broker.works(10)


class Speaker:
    """Speaks SCOOP with the broker as a worker does.

    Args:
        keys: makes the socket one that may, or may not.
    """

    def __init__(
        self, context: Any, place: str, name: bytes, keys: Callable[[Any], object]
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.IDENTITY, name)
        self.socket.setsockopt(zmq.IPV6, 1)
        keys(self.socket)
        self.socket.connect(place)

    def close(self) -> None:
        """Say no more."""
        self.socket.close(0)

    def say(self, *frames: bytes) -> None:
        """A message."""
        self.socket.send_multipart(frames)

    def hear(self, seconds: float = 5.0) -> list[bytes]:
        """A message, or nothing."""
        frames: list[bytes] = (
            self.socket.recv_multipart() if self.socket.poll(int(seconds * 1000)) else []
        )
        return frames

    def greet(self) -> bool:
        """Be a worker that has just started; whether it was answered."""
        self.say(b"I", pickle.dumps({"headless": False}))
        return all(self.hear(2.0) for _ in range(2))


def friendly(socket: Any) -> None:
    """With the keys of a process of the run."""
    curve.call(socket, SECRET, 5.0, 20.0)


def knowing(socket: Any) -> None:
    """With keys of its own, and the public one of the broker."""
    friendly(socket)
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()


def foreign(socket: Any) -> None:
    """With the keys of another run."""
    curve.call(socket, "b" * 64, 5.0, 20.0)


@pytest.fixture
def speak() -> Iterator[Speak]:
    """Makes speakers of a place and a name, which are closed after the test."""
    with zmq.Context() as context, ExitStack() as made:
        yield lambda place, name, keys=friendly: made.enter_context(
            closing(Speaker(context, place, name, keys))
        )


def news(broker: Broker, seconds: float = 5.0) -> list[Any]:
    """What the broker's thread tells next."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if told := list(broker.gate.news.take()):
            return told
        time.sleep(0.01)
    return []


def place_of(broker: Broker) -> str:
    """Where it listens, which it is told here."""
    broker.gate.orders.put(("listen", "127.0.0.1"))
    ((_, _, ports),) = news(broker)
    return f"tcp://127.0.0.1:{ports[0]}"


@pytest.mark.parametrize(
    "keys", [lambda _socket: None, foreign, knowing], ids=["none", "foreign", "knowing"]
)
def test_who_does_not_know_the_secret_is_neither_answered_nor_read(
    broker: Broker, speak: Speak, keys: Callable[[Any], object], tmp_path: Path
) -> None:
    """Nothing that it sends is unpickled, whatever name it takes."""
    place = place_of(broker)
    stranger = speak(place, b"h1:a", keys)
    stranger.say(b"I", pickle.dumps(Mark(tmp_path / "mark")))
    assert stranger.hear(0.5) == []
    assert speak(place, b"h1:a").greet()
    assert not (tmp_path / "mark").exists()
    assert broker.works(5.0)


def test_a_worker_gets_tasks_once_it_is_admitted_and_until_it_is_forgotten(
    broker: Broker, speak: Speak
) -> None:
    """A host that has not shaken hands, or has gone, is given nothing."""
    place = place_of(broker)
    first, second, origin = (speak(place, name) for name in (b"h1:a", b"h2:b", b"origin"))
    for worker in (first, second):
        assert worker.greet()
        worker.say(b"RQ")
    origin.say(b"T", b"id 1", b"one")
    assert first.hear(0.3) == second.hear(0.3) == []
    broker.gate.orders.put(("admit", b"h2:b"))
    assert second.hear() == [b"T", b"one"]
    assert news(broker) == [("sent", b"id 1", b"h2:b")]
    broker.gate.orders.put(("admit", b"h1:a"))
    second.say(b"RQ")
    time.sleep(0.3)
    broker.gate.orders.put(("forget", b"h1:a"))
    time.sleep(0.3)
    origin.say(b"T", b"id 2", b"two")
    assert second.hear() == [b"T", b"two"]
    assert first.hear(0.2) == []
    assert broker.works(5.0)


@pytest.mark.fault(102)
def test_a_message_that_is_too_long_is_not_taken_in(broker: Broker, speak: Speak) -> None:
    """Nobody knows whose it is before all of it is there: its sender is hung up on instead."""
    place = place_of(broker)
    stranger, worker = (speak(place, name) for name in (b"stranger", b"h1:a"))
    with stranger.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED) as hung_up:
        stranger.socket.send(bytes(curve.LONGEST + 1))
        assert hung_up.poll(10_000)
        stranger.socket.disable_monitor()
    stranger.close()
    assert worker.greet()
    assert broker.works(5.0)


def test_a_worker_that_is_barred_keeps_its_turn_until_it_is_admitted_again(
    broker: Broker, speak: Speak
) -> None:
    """It asks once and waits; what was sent before it was barred is told before that."""
    place = place_of(broker)
    worker, origin = (speak(place, name) for name in (b"h1:a", b"origin"))
    assert worker.greet()
    broker.gate.orders.put(("admit", b"h1:a"))
    worker.say(b"RQ")
    time.sleep(0.3)
    broker.gate.orders.put(("bar", b"h1:a"))
    assert news(broker) == [("barred", b"h1:a", b"")]
    origin.say(b"T", b"id 1", b"one")
    assert worker.hear(0.3) == []
    broker.gate.orders.put(("admit", b"h1:a"))
    assert worker.hear() == [b"T", b"one"]
    assert news(broker) == [("sent", b"id 1", b"h1:a")]


def test_the_broker_listens_where_it_is_told_and_says_where_it_cannot(
    broker: Broker, speak: Speak
) -> None:
    """At each address by itself, those of IPv6 too."""
    addresses = [
        "127.0.0.1",
        "127.0.0.2",
        *(["::1"] if Path("/proc/net/if_inet6").exists() else []),
    ]
    for address in addresses:
        broker.gate.orders.put(("listen", address))
        ((word, where, ports),) = news(broker)
        assert (word, where, len(set(ports))) == ("listens", address, 2)
        place = f"tcp://[{address}]:{ports[0]}" if ":" in address else f"tcp://{address}:{ports[0]}"
        assert speak(place, address.encode()).greet()
    broker.gate.orders.put(("listen", NOWHERE))
    ((word, where, reason),) = news(broker)
    assert (word, where) == ("deaf", NOWHERE)
    assert "assign" in reason


# -- the engine ---------------------------------------------------------------------------------


class Steps(Source):
    """One task; two more once ``more`` is set; then the end."""

    def __init__(self) -> None:
        self.more, self.given = False, 0
        self.gone: set[int] = set()

    def take(self, node: str | None = None) -> Task | Pause:
        """See the contract."""
        if self.given == 3:
            return Pause.END
        if self.given and not self.more:
            return Pause.NOW
        self.given += 1
        return Task(self.given, self.given - 1, self.given, 1, time.time())

    def revoked(self) -> set[int]:
        """See the contract."""
        return self.gone


@contextmanager
def one_slot(text: str, source: Steps) -> Iterator[Items]:
    """A run with a slot of this machine."""
    engine = Engine([Node("localhost", slots=1)], Options(tick=0.05))
    with engine, closing(engine.run(work_of(text), source)) as items:
        yield items


def test_a_task_that_is_revoked_while_it_waits_is_never_drawn(tmp_path: Path) -> None:
    """It is answered at once, while the slot is at work, and its turn never comes."""
    source, answered = Steps(), []
    with one_slot(SLOW.format(folder=str(tmp_path), seconds=3), source) as items:
        for item in items:
            if isinstance(item, Outcome):
                answered.append((item.task, item.fault and item.fault.kind))
            elif Path(tmp_path, "0").exists():
                source.more = True
                source.gone = {2} if source.given == 3 else set()
    assert answered == [(2, "returned"), (1, None), (3, None)]
    assert {"0", "2"} == {mark.name for mark in tmp_path.iterdir()} - {str(1 << 62)}


def stopped_while_it_draws(word: str, folder: Path) -> list[Any]:
    """What comes of a task when a process of the engine is stopped for good."""
    before = descendants(os.getpid())
    source, told, struck = Steps(), [], False
    # Longer than any silence is borne: the agent would report a block that ends before.
    with one_slot(SLOW.format(folder=str(folder), seconds=12), source) as items:
        for item in items:
            told += [item] if item is not None else []
            if not struck and source.given:
                for pid in descendants(os.getpid()) - before:
                    with suppress(OSError):
                        if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                            os.kill(pid, signal.SIGSTOP)
                            struck = True
            if any(isinstance(item, Outcome) for item in told):
                break
    return told


@pytest.mark.slow
@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("scoop.driver", "the engine's driver was lost: it was not heard of"),
        ("scoop.worker", "its SCOOP worker was silent"),
    ],
)
def test_a_stopped_process_of_scoop_is_replaced(word: str, reason: str, tmp_path: Path) -> None:
    """SIGSTOP: what it had is given back within seconds, and another one takes its place."""
    begun = time.monotonic()
    told = stopped_while_it_draws(word, tmp_path)
    (outcome,) = [item for item in told if isinstance(item, Outcome)]
    assert outcome.fault is not None
    assert outcome.fault.kind == "returned"
    assert reason in outcome.fault.message
    # The probe takes as long as a block.
    assert time.monotonic() - begun < 40


# -- where it cannot be used ----------------------------------------------------------------------


def another_scoop(folder: Path) -> str:
    """A folder for the path in which another version of SCOOP is said to be installed."""
    (info := folder / "site" / "scoop-0.7.1.dist-info").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: scoop\nVersion: 0.7.1\n")
    return str(info.parent)


def submitted(folder: Path, nodes: str, **environment: str) -> tuple[int, str]:
    """Exit code and document of a run of one block."""
    (folder / "kernel.py").write_text(
        "from cluster import Hits\n\ndef f(rng, samples):\n    return Hits(0, samples)\n"
    )
    (folder / "spec.yaml").write_text(
        f"kernel: kernel.py:f\nsamples: 64\nblock: 64\nbackend: scoop\nnodes: {nodes}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "submit", "spec.yaml", "--json"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_another_version_here_is_refused(tmp_path: Path) -> None:
    """Its internals are not those that are known; the cure is told."""
    code, error = submitted(tmp_path, "[localhost:1]", PYTHONPATH=another_scoop(tmp_path))
    assert code == 69
    assert "SCOOP 0.7.1" in error
    assert "pip install scoop==0.7.2.0" in error


def test_another_version_on_a_host_is_refused_by_the_name_of_the_host(tmp_path: Path) -> None:
    """The run does not begin, and says which host it is."""
    environment = json.dumps({"PYTHONPATH": another_scoop(tmp_path)})
    code, error = submitted(tmp_path, f"[{{host: localhost, slots: 1, env: {environment}}}]")
    assert code == 69
    assert "localhost: it has SCOOP 0.7.1" in error
    assert "pip install scoop==0.7.2.0" in error


def test_an_ssh_session_of_the_person_is_not_taken_for_one_of_ours(tmp_path: Path) -> None:
    """Whoever is logged in by ssh has SSH_CONNECTION, which says nothing of this run."""
    code, text = submitted(tmp_path, "[localhost:1]", SSH_CONNECTION=f"{NOWHERE} 1 {NOWHERE} 22")
    assert (code, json.loads(text)["state"]) == (0, "done")


@pytest.mark.slow
def test_a_worker_that_cannot_reach_the_broker_ends_and_says_where_it_is() -> None:
    """Within half a minute: no wait without end."""
    first = {"secret": SECRET, "name": "h:1", "address": "127.0.0.1", "ports": [9, 9]}
    done = subprocess.run(
        python_command(sys.executable, "cluster.backends.scoop.worker"),
        input=json.dumps(first) + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "did not answer at 127.0.0.1, TCP port 9: is a firewall between?" in done.stderr
