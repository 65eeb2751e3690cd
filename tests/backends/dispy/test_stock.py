"""Stock dispynodes on a network that is trusted: what they can be used for all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.backends.base import TABLE, Backend, NodeEvent, Options, create
from cluster.backends.dispy.stock import RISK
from cluster.common.errors import EngineError, NodesMissing
from cluster.common.secret import Secret
from cluster.hosts.nodes import Node
from cluster.hosts.process_tree import descendants, is_alive
from cluster.sampling.plan import Goal
from cluster.sampling.task import Outcome
from cluster.testing import PLAIN, SLEEPS, Script, Subject, check_hostile, drive, work_of
from tests.backends.dispy import leash
from tests.backends.dispy.test_standing import diagnosis, free_port, written
from tests.backends.engines import serial
from tests.conftest import need

ENTRY = next(entry for entry in TABLE if entry.name == "dispy")
SECRET = "a secret of a stock node"
SECONDS = 60.0
pytestmark = pytest.mark.slow


class Stock(NamedTuple):
    """A stock dispynode on its leash, the file with its secret, and how to make an engine on it."""

    process: subprocess.Popen[bytes]
    port: int
    secret: Path

    def engine(
        self,
        secret: Path | None = None,
        launch: float = 20.0,
        trusted: bool = True,
    ) -> Backend:
        """An engine on it."""
        network = "trusted" if trusted else "sealed"
        own = {"secret": Secret(file=str(secret or self.secret)), "network": network}
        options = Options(own=own, launch=launch, tick=0.1)
        return create("dispy", [Node("127.0.0.1", slots=2, attach=self.port)], options)

    def kill(self) -> None:
        """Everything of it at once."""
        for pid in descendants(self.process.pid):
            with suppress(ProcessLookupError):  # some end with others
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Stock]:
    """Dispy's own script, as its documentation starts it."""
    need(ENTRY.usable, f"dispy: {ENTRY.install}")
    spec = find_spec("dispy")
    assert spec is not None
    assert spec.origin is not None
    port = free_port()
    script = Path(spec.origin).with_name("dispynode.py")
    words = [
        sys.executable,
        str(script),
        "-i",
        "127.0.0.1",
        "-p",
        str(port - 1),
        "-c",
        "2",
        "-s",
        SECRET,
        "--daemon",
        "--zombie_interval",
        "0",
        "--dest_path_prefix",
        str(tmp_path / "node"),
    ]
    with leash.led(words, tmp_path / "log") as process:
        yield Stock(process, port, written(tmp_path / "secret", SECRET))


def test_a_stock_node_gives_the_digest_of_serial_again_and_again(stock: Stock) -> None:
    """And each run says once what it means to use it."""
    expected = drive(serial, work_of(), Goal(40)).digest
    for _ in range(2):
        driven = drive(stock.engine, work_of(), Goal(40))
        assert driven.digest == expected
        assert str(driven.events).count(RISK) == 1


OF_A_NODE = """
import os, signal
from cluster import Hits
def f(rng, samples):
    wrong = os.environ.get("WRONG", "") if SECOND else ""
    if wrong == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if wrong == "lack":
        import skimage
    return Hits((rng.random(samples) < 0.25).sum() + (wrong == "bias"), samples)
"""


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("bias", "came out differently there than here"),
        ("die", "failed: WorkerLost: its process was killed (SIGKILL"),
        ("lack", "needs the module skimage, which is missing there (there: "),
        ("", ""),
    ],
)
def test_a_stock_node_is_held_to_what_this_machine_draws_of_each_kernel_of_a_sweep(
    stock: Stock, wrong: str, words: str
) -> None:
    """Of the second one it is what is wrong: refused in words, or used."""
    first, second = (work_of(OF_A_NODE.replace("SECOND", str(each))) for each in (False, True))
    own = {"secret": Secret(file=str(stock.secret)), "network": "trusted"}
    options = Options(own=own, launch=20.0, tick=0.1, kernels=[second], required=1)
    env = (("WRONG", wrong),)
    nodes = [Node("127.0.0.1", slots=2, attach=stock.port, env=env), Node("nowhere.invalid")]
    with (
        create("dispy", nodes, options) as engine,
        closing(engine.run(first, Script(0, pauses=10**9))) as items,
    ):
        said = [""]
        with suppress(NodesMissing):  # which names each host again
            for item in items:
                if isinstance(item, NodeEvent) and item.node == "127.0.0.1":
                    said.append(item.reason)
                    if item.slots:
                        break
    assert words in said[-1]
    assert said[-1].startswith("ready") is not bool(words)


@pytest.mark.parametrize("hostile", ["os_exit", "hangs", "raises", "prints"])
def test_a_stock_node_survives_a_hostile_kernel(stock: Stock, hostile: str) -> None:
    """Its agent has the same workers as that of every host."""
    check_hostile(Subject(stock.engine), hostile)
    await_no_jobs(stock)


def test_a_killed_agent_of_a_stock_node_is_replaced(stock: Stock) -> None:
    """Each block counts once, nothing is left behind, and the node works for the next run."""
    expected = drive(serial, work_of(), Goal(40)).digest
    work, killed = work_of(SLEEPS.format(seconds=0.05)), False
    outcomes: set[int] = set()
    with stock.engine() as engine, closing(engine.run(work, Script(60))) as items:
        for item in items:
            if isinstance(item, Outcome) and item.fault is None:
                assert item.task not in outcomes
                outcomes.add(item.task)
            if len(outcomes) == 10 and not killed:
                (pid,) = processes("cluster.hosts.agent")
                os.kill(pid, signal.SIGKILL)
                killed = True
            if isinstance(item, NodeEvent) and killed and item.slots:
                break
    assert killed
    await_no_jobs(stock)
    assert drive(stock.engine, work_of(), Goal(40)).digest == expected


def processes(word: str) -> list[int]:
    """Those of this test that run a module."""
    found = []
    for pid in descendants(os.getpid()):
        with suppress(OSError):
            if f"from {word} import".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def test_without_the_key_a_stock_node_is_refused_and_the_key_is_named(stock: Stock) -> None:
    """What it is to be told, and not what TLS makes of it."""
    with pytest.raises(EngineError, match="is no node of ours: it is a stock dispynode") as caught:
        drive(partial(stock.engine, trusted=False), work_of(), Goal(3))
    assert "dispy: {network: trusted}" in str(caught.value)


def test_another_secret_is_told(stock: Stock, tmp_path: Path) -> None:
    """By name, and not as silence."""
    other = written(tmp_path / "other", "another secret, that is wrong")
    with pytest.raises(EngineError, match="does not accept our secret"):
        drive(partial(stock.engine, secret=other), work_of(), Goal(3))


def test_a_stock_node_that_is_held_is_told(stock: Stock) -> None:
    """As one of the two things that it may be: it says neither."""
    words = r"is held by another client \(the last that it took came from 127\.0\.0\.1\), or"
    work = work_of(SLEEPS.format(seconds=0.1))
    with stock.engine() as engine, closing(engine.run(work, Script(1000))) as items:
        next(item for item in items if isinstance(item, Outcome))
        with pytest.raises(EngineError, match=words):
            drive(partial(stock.engine, launch=12.0), work_of(), Goal(3))


def test_a_killed_stock_node_is_noticed(stock: Stock) -> None:
    """Within three heartbeats and what the probe takes."""
    with stock.engine() as engine:
        killed = 0.0
        for item in engine.run(work_of(SLEEPS.format(seconds=0.1)), Script(1000)):
            if isinstance(item, Outcome) and not killed:
                stock.kill()
                killed = time.monotonic()
            if killed and isinstance(item, NodeEvent) and not item.slots:
                assert "not heard of" in item.reason or "its agent ended" in item.reason
                break
        assert time.monotonic() - killed < 13


def test_where_no_stock_node_answers_the_place_is_told() -> None:
    """Nobody listens there."""
    words = f"no node answers at 127.0.0.1 port {(port := free_port())}"
    options = Options(own={"network": "trusted"}, launch=3.0, tick=0.1)
    with pytest.raises(EngineError, match=words):
        drive(
            lambda: create("dispy", [Node("127.0.0.1", attach=port)], options), work_of(), Goal(3)
        )


def jobs_of(stock: Stock) -> set[int]:
    """The processes of blocks that are drawn there: those in a session of their own."""
    found = set()
    for pid in descendants(stock.process.pid):
        try:
            if os.getsid(pid) == pid and os.getsid(stock.process.pid) != pid:
                found.add(pid)
        except ProcessLookupError:
            continue
    return found


def await_no_jobs(stock: Stock) -> None:
    """Nothing of a run is computed on."""
    end = time.monotonic() + SECONDS
    while left := jobs_of(stock):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.05)


def test_a_spec_names_the_secret_and_the_network_and_the_risk_is_printed(
    stock: Stock, tmp_path: Path
) -> None:
    """Once, at the start of the run."""
    (tmp_path / "kernel.py").write_text(PLAIN)
    (tmp_path / "spec.yaml").write_text(f"""
name: stock
kernel: kernel.py:f
samples: 2000
seed: 1
backend: dispy
nodes: [{{host: 127.0.0.1, slots: 2, attach: {stock.port}}}]
dispy: {{network: trusted, secret: {{file: {stock.secret.name}}}}}
""")
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "submit", "spec.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("whatever the network sends it, unencrypted") == 1


def test_the_doctor_meets_a_stock_node_as_a_run_does(stock: Stock, tmp_path: Path) -> None:
    """It tells what dispy alone can: whether the node draws as this machine does, and its cores."""
    found = diagnosis(
        tmp_path,
        (
            f"nodes: [{{host: 127.0.0.1, slots: 2, attach: {stock.port}}}]\n"
            f"dispy: {{network: trusted, secret: {{file: {stock.secret.name}}}}}"
        ),
    )
    assert found["host"]["message"].startswith("by a stock dispynode at its port; Python ")
    assert found.keys() == {"host", "cores"}


def test_a_node_on_a_leash_ends_with_its_holder_however_that_one_ended(tmp_path: Path) -> None:
    """With all that came of it, in sessions of their own too: no test leaves a node behind."""
    words = ["sh", "-c", "setsid sleep 1000 & sleep 1000"]
    code = (
        "import time; from pathlib import Path; from tests.backends.dispy import leash\n"
        f"with leash.led({words!r}, Path({str(tmp_path / 'log')!r})) as process:\n"
        "    print(process.pid, flush=True); time.sleep(100)\n"
    )
    root = Path(__file__).parents[3]
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root)
    with holder:
        assert holder.stdout
        leader = int(holder.stdout.readline())
        end = time.monotonic() + SECONDS
        while len(born := descendants(leader)) < 3:
            assert time.monotonic() < end
            time.sleep(0.05)
        holder.kill()
    while any(is_alive(pid) for pid in (leader, *born)):
        assert time.monotonic() < end, f"left behind: {born}"
        time.sleep(0.05)
