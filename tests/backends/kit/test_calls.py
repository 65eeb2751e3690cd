"""Engines of the kit that are two functions each, over an agent on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cluster.backends.base import TABLE, NodeEvent, Options, create
from cluster.backends.kit.links import Links
from cluster.common.errors import NodesMissing
from cluster.hosts.nodes import Node
from cluster.hosts.process_tree import descendants, is_alive
from cluster.sampling.plan import Goal
from cluster.testing import Driven, Script, drive, work_of
from tests.backends.submitted import LOOPBACK, digest, listening, result, start
from tests.conftest import need

# The second half waits until it has happened, however late this machine comes to it.
NAPS = """
import os, time
from cluster import Hits
def f(stream, samples):
    time.sleep(0.02)
    while 100 < stream.block < 1000 and not os.path.exists({struck!r}):
        time.sleep(0.01)
    return Hits((stream.generator().random(samples) < .25).sum(), samples)
"""
SERVER, DRIVER, AGENT = "kit.server", "kit.links", "cluster.hosts.agent"
# What the kit does is tried with one engine by default, and with all of it in the slow run.
ENGINES = ["tcp", pytest.param("zeromq", marks=pytest.mark.slow)]


def usable(name: str) -> str:
    """The name of an engine that is installed here."""
    entry = next(entry for entry in TABLE if entry.name == name)
    need(entry.usable, f"{name}: {entry.install}")
    return name


def found(word: str) -> list[int]:
    """Processes that this one started, whose command line has a word."""
    pids = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                pids.append(pid)
    return pids


def waited(word: str, seconds: float = 30.0) -> int:
    """The first of them, as soon as there is one."""
    end = time.monotonic() + seconds
    while not (pids := found(word)):
        assert time.monotonic() < end, f"no process has {word} in its command line"
        time.sleep(0.02)
    return pids[0]


def listens(pid: int) -> int:
    """The one port of a server, as soon as it listens, at one address alone."""
    end = time.monotonic() + 30
    while not (places := set(listening(pid))):
        assert time.monotonic() < end
        time.sleep(0.02)
    ((address, port),) = places
    assert address in LOOPBACK
    return port


def driven(name: str, strike: Callable[[], object], blocks: int = 200) -> Driven:
    """A run of two slots in the middle of which something happens."""
    node = Node("localhost", slots=2)
    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        struck = Path(folder, "struck")

        def strikes() -> None:
            try:
                strike()
            finally:
                struck.touch()

        happens = pool.submit(strikes)
        work = work_of(NAPS.format(struck=str(struck)))
        done = drive(lambda: create(usable(name), (node,), Options(tick=0.1)), work, Goal(blocks))
        happens.result()
    return done


@pytest.fixture(scope="module")
def wanted() -> str:
    """The digest of a plain run."""
    serial = drive(lambda: create("serial", (Node("localhost", slots=1),)), work_of(), Goal(200))
    assert serial.digest is not None
    return serial.digest


def signalled(word: str, number: int) -> None:
    """A process at work is sent a signal."""
    pid = waited(word)
    listens(waited(SERVER))
    time.sleep(0.5)
    os.kill(pid, number)


@pytest.mark.fault(4, 17)
@pytest.mark.parametrize("victim", [SERVER, DRIVER])
@pytest.mark.parametrize("name", ENGINES)
def test_a_killed_process_costs_what_was_under_way(name: str, victim: str, wanted: str) -> None:
    """Kill -9 of the server on the host, or of the driver: the digest stays, and no block fails."""
    run = driven(name, partial(signalled, victim, signal.SIGKILL))
    assert (run.digest, run.failures) == (wanted, [])
    text = "\n".join(map(str, run.events))
    # Of a server's end its agent may tell first, or its link.
    assert ("its server" if victim == SERVER else "driver was lost") in text


@pytest.mark.slow
@pytest.mark.fault(8)
@pytest.mark.parametrize("victim", [SERVER, DRIVER])
@pytest.mark.parametrize("name", ENGINES)
def test_a_stopped_process_is_replaced(name: str, victim: str, wanted: str) -> None:
    """SIGSTOP of either is noticed by its own silence."""
    begun = time.monotonic()
    run = driven(name, partial(signalled, victim, signal.SIGSTOP))
    assert (run.digest, run.failures) == (wanted, [])
    assert time.monotonic() - begun < 40


@pytest.mark.slow
@pytest.mark.fault(4)
@pytest.mark.parametrize("name", ENGINES)
def test_a_killed_agent_takes_its_server_along(name: str, wanted: str) -> None:
    """The next agent starts another one, and nothing of the first is left."""
    servers: list[int] = []

    def strike() -> None:
        servers.append(waited(SERVER))
        signalled(AGENT, signal.SIGKILL)

    run = driven(name, strike)
    assert (run.digest, run.failures) == (wanted, [])
    # An orphan is collected by whoever is first in its container, and by some never.
    assert not is_alive(servers[0])


@pytest.mark.slow
@pytest.mark.fault(90, 91, 102)
@pytest.mark.parametrize("name", ENGINES)
def test_strangers_at_the_port_make_nobody_deaf(name: str, wanted: str) -> None:
    """150 silent connections and noise, while the driver is killed and its heir must get in.

    The server listens on one port of the loopback, and nothing else of the run listens at all.
    """
    with ExitStack() as strangers:

        def strike() -> None:
            port = listens(waited(SERVER))
            assert not [place for word in (DRIVER, AGENT) for place in listening(waited(word))]
            for number in range(150):
                stranger = socket.create_connection(("127.0.0.1", port), 5)
                strangers.enter_context(stranger)
                if number % 5 == 0:
                    stranger.sendall(os.urandom(4096))
            time.sleep(0.2)
            os.kill(waited(DRIVER), signal.SIGKILL)

        begun = time.monotonic()
        run = driven(name, strike, 200)
        assert (run.digest, run.failures) == (wanted, [])
        assert time.monotonic() - begun < 15


@pytest.mark.parametrize("name", ENGINES)
def test_no_secret_is_where_others_see_it(name: str) -> None:
    """Neither in a command line nor in an environment."""
    node = Node("localhost", slots=1)
    with (
        create(usable(name), (node,), Options(tick=0.1)) as engine,
        closing(engine.run(work_of(), Script(0, pauses=10**9))) as items,
    ):
        next(item for item in items if isinstance(item, NodeEvent) and item.slots)
        secret = vars(engine)["_secret"].encode()
        for pid in descendants(os.getpid()):
            for file in ("cmdline", "environ"):
                with suppress(OSError):
                    assert secret not in Path(f"/proc/{pid}/{file}").read_bytes()


def test_a_host_without_what_an_engine_needs_is_refused_by_name(tmp_path: Path) -> None:
    """The line to type there is said, and no server is started again and again."""
    (tmp_path / "zmq.py").write_text("raise ImportError('no zmq here')\n")
    env = (("PYTHONPATH", str(tmp_path)),)
    engine = create(usable("zeromq"), (Node("localhost", slots=1, env=env),), Options(tick=0.1))
    with engine, pytest.raises(NodesMissing, match="no zmq here") as caught:
        list(engine.run(work_of(), Script(1)))
    assert "there: pip install 'cluster-montecarlo[zeromq]'" in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tcp", "zeromq"])
def test_the_shipped_spec_has_its_digest_without_a_node_list(name: str, tmp_path: Path) -> None:
    """On this machine alone, as it is written, from the command line."""
    plain = digest(result(start("processes", tmp_path / "plain")))
    assert digest(result(start(usable(name), tmp_path / name))) == plain != ""


# -- a link, without a server ----------------------------------------------------------------------


class Hangs:
    """A ``dial`` whose connections answer until they are cut, and then never; counts them."""

    def __init__(self) -> None:
        self.dialled = 0
        self.cut: set[int] = set()

    def __call__(self, _where: Any) -> Callable[[str], str]:
        self.dialled += 1
        number = self.dialled

        def call(text: str) -> str:
            while number in self.cut:
                time.sleep(0.01)
            time.sleep(0.02 if "\n" not in text else 0.0)
            return ""

        return call


@contextmanager
def linked(dial: Callable[[Any], Callable[[str], str]], **more: Any) -> Iterator[Links]:
    """A carrier that was told of a host."""
    links = Links(dial, **more)
    links.join({"name": "h", "slots": 1, "address": "127.0.0.1", "port": 9})
    yield links
    links.leave("h", "its host is gone")


def heard(links: Links, word: str, seconds: float = 10.0) -> dict[str, Any]:
    """The next thing of its kind that a carrier says."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for news in links.tend():
            if word in news:
                return dict(news)
        time.sleep(0.01)
    raise AssertionError(f"nothing was said of {word}")


def test_a_link_that_is_cut_without_a_word_is_given_up_and_dialled_anew() -> None:
    """Its tasks are lost at the latest after its silence, though no call of it ever ends."""
    dial = Hangs()
    with linked(dial, silent=0.5) as links:
        heard(links, "up")
        dial.cut = {1, 2}
        links.send([7, 0, 1, 1, 0.0], "h")
        assert heard(links, "down")["reason"].endswith("no answer for 0.5 s")
        assert heard(links, "lost")["lost"] == 7
        heard(links, "up")
        assert dial.dialled == 4


def test_a_link_that_takes_no_tasks_is_given_up_too() -> None:
    """Though the other caller is answered in time."""

    def dial(_where: Any) -> Callable[[str], str]:
        def call(text: str) -> str:
            time.sleep(0.02 if "\n" not in text else 5.0)
            return ""

        return call

    with linked(dial, silent=0.5) as links:
        heard(links, "up")
        links.send([7, 0, 1, 1, 0.0], "h")
        assert heard(links, "lost", 3.0)["lost"] == 7


def test_a_task_for_a_server_that_is_not_there_is_lost_at_once() -> None:
    """As one for a host that nobody knows; and what cannot be dialled is said in words."""

    def refuses(_where: Any) -> Callable[[str], str]:
        raise ConnectionRefusedError("nobody there")

    with linked(refuses) as links:
        reason = heard(links, "down")["reason"]
        assert reason == "its server at 127.0.0.1 port 9 cannot be reached from here: nobody there"
        for name in ("h", "x"):
            links.send([7, 0, 1, 1, 0.0], name)
            assert heard(links, "lost") == {"lost": 7, "reason": "its server is not there"}


def test_an_answer_that_is_no_outcome_ends_the_link_alone() -> None:
    """The driver lives on, and dials anew."""
    answers = iter(["", json.dumps([1]) + "\n{no json", *[""] * 1000])

    def dial(_where: Any) -> Callable[[str], str]:
        def call(_text: str) -> str:
            time.sleep(0.01)
            return next(answers)

        return call

    with linked(dial) as links:
        heard(links, "up")
        assert "down" in heard(links, "down")
        heard(links, "up")


def test_the_kit_needs_no_package() -> None:
    """Backend tcp runs where nothing but this package is installed."""
    entry = next(entry for entry in TABLE if entry.name == "tcp")
    assert entry.usable
    assert (entry.needs, entry.install) == ((), None)
