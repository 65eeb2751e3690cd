"""Nodes that stand by themselves: who is let in, who is turned away, and with which words."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

import cluster
from cluster.backends.base import TABLE, NodeEvent, Options, create
from cluster.common.errors import EngineError, UsageError
from cluster.common.secret import Secret
from cluster.hosts.nodes import Node
from cluster.hosts.process_tree import descendants, is_alive
from cluster.report.schema import output_schema
from cluster.sampling.plan import Goal
from cluster.sampling.task import Outcome
from cluster.testing import PLAIN, SLEEPS, Driven, Script, drive, work_of
from tests.backends.engines import serial
from tests.conftest import need

ENTRY = next(entry for entry in TABLE if entry.name == "dispy")
SECONDS = 30.0
# What holds the names of ports for this process.
_OURS: list[socket.socket] = []
pytestmark = pytest.mark.pythons
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def _usable() -> None:
    need(ENTRY.usable, f"dispy: {ENTRY.install}")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a secret."""
    return written(tmp_path / "secret", "a secret of this test alone")


@pytest.fixture
def port() -> int:
    """A port that is free, as the next one is."""
    return free_port()


def free_port() -> int:
    """A port of this machine that is free, as the ones before and after it are.

    No other test gets it while this process lives: they ask for it by name.
    """
    while True:
        # Below those that the system gives to connections, which could be given to one meanwhile.
        port = random.randrange(15_001, 30_000, 3)
        with ExitStack() as stack:
            try:
                mine = stack.enter_context(socket.socket(socket.AF_UNIX))
                mine.bind(f"\0cluster-test-port-{port}")
                for each in (port - 1, port, port + 1):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", each))
            except OSError:
                continue
            _OURS.append(socket.socket(fileno=mine.detach()))
            return port


@pytest.fixture
def start(secret: Path, port: int) -> Iterator[Start]:
    """Starts nodes on this machine, as a person does, and waits until they listen."""
    with ExitStack() as stack:

        def started(
            *words: str, address: str = "127.0.0.1", root: Path | None = None
        ) -> subprocess.Popen[str]:
            place = {} if root is None else {"PYTHONPATH": str(root)}
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "cluster",
                    "node",
                    "--port",
                    str(port),
                    "--secret-file",
                    str(secret),
                    "--address",
                    address,
                    *words,
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                env=os.environ | place,
                cwd=root or secret.parent,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout
            stack.enter_context(process.stdout)
            assert process.stdout.readline()
            return process

        yield started


def written(file: Path, text: str, mode: int = 0o600) -> Path:
    """A file with a text and these rights."""
    file.write_text(text + "\n")
    file.chmod(mode)
    return file


def node(port: int, address: str = "127.0.0.1", slots: int | None = 2) -> Node:
    """A node that stands there."""
    return Node(address, slots=slots, attach=port)


def run(secret: Path, *nodes: Node, launch: float = 20.0, blocks: int = 12) -> Driven:
    """A whole run on nodes that stand."""
    options = Options(own={"secret": Secret(file=str(secret))}, launch=launch, tick=0.1)
    return drive(lambda: create("dispy", nodes, options), work_of(), Goal(blocks))


def reason(secret: Path, *nodes: Node, launch: float = SECONDS) -> str:
    """Why a run on nodes that stand does not begin."""
    with pytest.raises(EngineError) as caught:
        run(secret, *nodes, launch=launch)
    assert caught.value.code == 69
    return str(caught.value)


def diagnosis(folder: Path, dispy: str, code: int = 0) -> dict[str, dict[str, str]]:
    """What the doctor says of the one node of a spec, by what it looked at."""
    (folder / "kernel.py").write_text(PLAIN)
    lines = ["name: d", "kernel: kernel.py:f", "samples: 2000", "seed: 1", "backend: dispy", dispy]
    (folder / "spec.yaml").write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "doctor", "spec.yaml", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS * 2,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    found = json.loads(done.stdout)["findings"]
    return {each["check"]: each for each in found if each["host"]}


def await_no_children(process: subprocess.Popen[str]) -> None:
    """A node keeps nothing of a dispatcher that has gone."""
    end = time.monotonic() + SECONDS
    while left := descendants(process.pid):
        assert time.monotonic() < end, f"left behind: {left}"
        time.sleep(0.05)


def test_nodes_that_stand_give_the_digest_of_serial_again_and_again(
    start: Start, secret: Path, port: int
) -> None:
    """Two of them, two runs: each run has an agent and a dispynode of its own, and leaves none."""
    nodes = start(), start(address="127.0.0.2")
    expected = drive(serial, work_of(), Goal(40)).digest
    for _ in range(2):
        driven = run(secret, node(port), node(port, "127.0.0.2", slots=1), blocks=40)
        assert driven.digest == expected
        assert set(driven.node_blocks) == {"127.0.0.1", "127.0.0.2"}
        for process in nodes:
            await_no_children(process)


def test_a_node_says_where_it_listens_and_ends_at_a_signal(start: Start, port: int) -> None:
    """One line, or one document; SIGTERM is its proper end."""
    process = start("--json")
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
    assert process.stdout
    document = json.loads("{" + process.stdout.read())
    assert Draft7Validator(output_schema("node")).is_valid(document)
    assert document == {"address": "127.0.0.1", "port": port, "dispynode": port + 1}


@pytest.mark.fault(38)
def test_a_node_that_ends_takes_down_what_it_started(start: Start, secret: Path, port: int) -> None:
    """SIGTERM while a run is on: the run is told, and no process stays."""
    process = start()
    options = Options(own={"secret": Secret(file=str(secret))}, tick=0.1)
    with create("dispy", [node(port)], options) as engine:
        lost = ""
        for item in engine.run(work_of(SLEEPS.format(seconds=0.2)), Script(1000)):
            if isinstance(item, Outcome) and process.poll() is None:
                children = descendants(process.pid)
                assert children
                process.send_signal(signal.SIGTERM)
                assert process.wait(SECONDS) == 0
                assert [pid for pid in children if is_alive(pid)] == []
            if isinstance(item, NodeEvent) and not item.slots:
                lost = item.reason
                break
    assert "its agent ended" in lost


def test_a_node_gives_no_more_slots_than_it_was_told(start: Start, secret: Path, port: int) -> None:
    """The dispatcher may ask for fewer, and never gets more."""
    start("--slots", "1")
    options = Options(own={"secret": Secret(file=str(secret))}, tick=0.1)
    with create("dispy", [node(port, slots=4)], options) as engine:
        items = engine.run(work_of(), Script(1))
        first = next(item for item in items if isinstance(item, NodeEvent))
        items.close()
    assert first.slots == 1


def test_where_no_node_stands_the_way_to_start_one_is_told(secret: Path, port: int) -> None:
    """Unreachable: the place, the system's word, and the command."""
    words = reason(secret, node(port), launch=3.0)
    assert f"no node answers at 127.0.0.1 port {port}: Connection refused" in words
    assert f"cluster node --port {port} --secret-file" in words


def test_a_name_that_does_not_resolve_is_told_at_once(secret: Path, port: int) -> None:
    """No waiting for it."""
    assert "its name does not resolve" in reason(secret, node(port, "no-such-host.invalid"))


def test_another_secret_is_refused_by_name(
    start: Start, secret: Path, port: int, tmp_path: Path
) -> None:
    """At once, and not as if nobody were there; the node stands on."""
    start()
    other = written(tmp_path / "other", "another secret of this test")
    began = time.monotonic()
    words = reason(other, node(port))
    assert "does not accept our secret" in words
    assert "use the file that the node there was started with" in words
    assert time.monotonic() - began < SECONDS / 2
    assert run(secret, node(port)).ending.state.value == "done"


def test_what_is_no_node_of_ours_is_told(secret: Path) -> None:
    """A listener that speaks something else."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = subprocess.Popen(
            [sys.executable, "-c", _TALKS, str(server.fileno())], pass_fds=[server.fileno()]
        )
        with listener:
            words = reason(secret, node(server.getsockname()[1]), launch=3.0)
            listener.kill()
    assert "is no node of ours" in words


_TALKS = """
import socket, sys
server = socket.socket(fileno=int(sys.argv[1]))
while True:
    connection, _ = server.accept()
    connection.sendall(b"SSH-2.0-OpenSSH_9.2" + b" and more" * 100)
    connection.close()
"""


@pytest.mark.slow
def test_a_node_that_another_run_holds_is_told_and_joins_when_it_is_free(
    start: Start, secret: Path, port: int
) -> None:
    """Held: by whom and since when; the run that waits for it gets it afterwards."""
    start()
    options = Options(own={"secret": Secret(file=str(secret))}, tick=0.1)
    with create("dispy", [node(port)], options) as first:
        items = first.run(work_of(SLEEPS.format(seconds=0.1)), Script(1000))
        next(item for item in items if isinstance(item, Outcome))
        words = reason(secret, node(port), launch=3.0)
        assert re.search(r"it is held by a dispatcher at 127\.0\.0\.1 since \d\d:\d\d:\d\d", words)
        items.close()
    assert run(secret, node(port)).ending.state.value == "done"


def test_a_node_of_another_version_is_refused_with_the_differences(
    start: Start, secret: Path, port: int, tmp_path: Path
) -> None:
    """The handshake is the same as over ssh, before any block."""
    ours = Path(cluster.__file__).parent
    shutil.copytree(ours, tmp_path / "old" / "cluster")
    version = tmp_path / "old" / "cluster" / "common" / "version.py"
    version.write_text(version.read_text().replace(cluster.__version__, "0.0.7"))
    nodes = tmp_path / "old" / "cluster" / "hosts" / "nodes" / "node.py"
    nodes.write_text(nodes.read_text().replace("attach", "moor"))  # a key that it does not know
    start(root=tmp_path / "old")
    words = reason(secret, node(port))
    assert "127.0.0.1: it differs in cluster" in words
    assert re.search(rf"cluster +{re.escape(cluster.__version__)} +0\.0\.7", words)


@pytest.mark.fault(102)
def test_a_stranger_at_the_door_is_not_heard(start: Start, secret: Path, port: int) -> None:
    """Noise, silence and a first message without the secret: no process is started for it."""
    process = start()
    callers = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(20)]
    for caller, words in zip(callers, (os.urandom(2000), b'{"node": {}}\n'), strict=False):
        caller.sendall(words)
    assert not descendants(process.pid)
    assert run(secret, node(port)).ending.state.value == "done"
    for caller in callers:
        caller.close()


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("a secret that all may read", 0o644, "can be read by others (mode 0644)"),
        ("short", 0o600, "at least 16 characters"),
        ("two lines\nof secrets, and more", 0o600, "one line"),
        (None, 0o600, "cannot be read: No such file"),
    ],
)
def test_a_secret_is_one_line_that_only_its_owner_can_read(
    tmp_path: Path, text: str | None, mode: int, words: str
) -> None:
    """Anything else is refused with its cure, and never shown."""
    file = tmp_path / "file"
    if text is not None:
        written(file, text, mode)
    with pytest.raises(UsageError) as caught:
        Secret(file=str(file)).read()
    assert words in str(caught.value)
    assert caught.value.fix
    assert text is None or text not in str(caught.value)


def test_a_secret_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not, the variable is named."""
    monkeypatch.setenv("THE_SECRET", "a secret of this test alone")
    assert Secret(env="THE_SECRET").read() == "a secret of this test alone"
    monkeypatch.delenv("THE_SECRET")
    with pytest.raises(UsageError, match="THE_SECRET"):
        Secret(env="THE_SECRET").read()


@pytest.mark.slow
def test_the_doctor_meets_a_node_as_a_run_does(start: Start, secret: Path, port: int) -> None:
    """By its port and not by ssh, also in a job of Slurm; then where none stands any more."""
    process = start()
    spec = (
        f"nodes: [{{host: 127.0.0.1, slots: 1, attach: {port}}}]\n"
        f"dispy: {{secret: {{file: {secret.name}}}}}"
    )
    found = diagnosis(secret.parent, spec)
    assert found["host"]["message"].startswith("by the attached node at its port; Python ")
    assert found["ports"]["status"] == "ok"
    await_no_children(process)
    process.terminate()
    process.wait(SECONDS)
    found = diagnosis(secret.parent, spec, code=69)
    assert found["host"]["message"] == (
        f"no node answers at 127.0.0.1 port {port}: Connection refused"
    )
