"""What reaches an open port of a dispynode of ours, and what does not."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from cluster.backends.dispy import job, shim
from cluster.backends.dispy.probe import Place, Unreachable, WrongSecret
from cluster.backends.dispy.seal import Seal, fresh_secret
from cluster.hosts.worker_pool import python_command

NODE = "cluster.backends.dispy.node"
pytestmark = pytest.mark.pythons


class Started(NamedTuple):
    """A dispynode of ours, its secret, and a file that is there once foreign code has run."""

    port: int
    secret: str
    marker: Path
    process: subprocess.Popen[str]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Started]:
    """A real dispynode on this machine, as an agent starts it."""
    secret = fresh_secret()
    wanted = {"address": "127.0.0.1", "port": 0, "jobs": 2, "secret": secret}
    process = subprocess.Popen(
        python_command(sys.executable, NODE),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"CLUSTER_FOLDER": str(tmp_path)},
        start_new_session=True,
    )
    with process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(wanted) + "\n")
        process.stdin.flush()
        port = json.loads(process.stdout.readline())["port"]
        yield Started(port, secret, tmp_path / "marker", process)
        process.kill()


class Bomb:
    """What runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def message(kind: bytes, load: object) -> bytes:
    """As dispy sends it, with a proof that proves nothing."""
    text = kind + pickle.dumps(load)
    return b"x" * 40 + struct.pack(">L", len(text)) + text


def answer(connection: socket.socket) -> bytes:
    """What comes back, until the end."""
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""


def is_well(node: Started) -> bool:
    """Whether the node still answers who knows its secret."""
    return bool(Place("127.0.0.1", node.port, Seal(node.secret)).info()["busy"] == 0)


@pytest.mark.fault(90, 91, 92, 102)
@pytest.mark.parametrize("kind", [b"PING:", b"JOB_REPLY:", b"COMPUTE:", b"JOB:"])
def test_a_pickle_from_a_stranger_is_not_read(node: Started, kind: bytes) -> None:
    """Without the secret no byte gets past the handshake, so nothing is unpickled."""
    with socket.create_connection(("127.0.0.1", node.port), 5) as stranger:
        stranger.sendall(message(kind, Bomb(node.marker)))
        assert not answer(stranger).startswith(b"ACK")
    assert is_well(node)
    assert not node.marker.exists()


@pytest.mark.fault(90, 102)
def test_a_pickle_from_one_who_knows_the_secret_runs_nothing(node: Started) -> None:
    """Behind the handshake, what is no part of dispy's messages is not loaded either."""
    plain = socket.create_connection(("127.0.0.1", node.port), 5)
    with plain, Seal(node.secret).client(plain) as friend:
        friend.settimeout(2)
        friend.sendall(message(b"PING:", Bomb(node.marker)))
        answer(friend)
    assert is_well(node)
    assert not node.marker.exists()


@pytest.mark.fault(102)
def test_silent_and_garbled_callers_keep_nobody_out(node: Started) -> None:
    """Fifty that say nothing and one that sends noise: the node answers its client at once."""
    callers = [socket.create_connection(("127.0.0.1", node.port), 5) for _ in range(50)]
    callers[0].sendall(os.urandom(4096))
    assert is_well(node)
    for caller in callers:
        caller.close()


def test_another_secret_is_refused_by_name(node: Started) -> None:
    """Who has another secret is told so, and not that nobody is there."""
    with pytest.raises(WrongSecret, match="does not accept our secret"):
        Place("127.0.0.1", node.port, Seal(fresh_secret())).info()


def test_a_place_where_nobody_listens_is_named() -> None:
    """A free port: nobody answers there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=f"127.0.0.1 port {port}"):
        Place("127.0.0.1", port, Seal(fresh_secret())).info()


def test_a_node_listens_on_its_named_address_alone(node: Started) -> None:
    """One TCP socket on the address that was named, and no UDP."""
    inodes = {
        os.readlink(entry)
        for entry in Path(f"/proc/{node.process.pid}/fd").iterdir()
        if entry.is_symlink()
    }
    tables = {
        name: Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        for name in ("tcp", "tcp6", "udp", "udp6")
    }
    mine = [
        (name, line.split()[1])
        for name, lines in tables.items()
        for line in lines
        if f"socket:[{line.split()[9]}]" in inodes
        and (name.startswith("udp") or line.split()[3] == "0A")
    ]
    assert mine == [("tcp", f"0100007F:{node.port:04X}")]


@pytest.mark.parametrize("found", [Bomb(Path("/nonexistent/x")), os.system, subprocess.Popen])
def test_only_dispys_own_messages_are_unpickled(found: object) -> None:
    """Whatever else is named in a pickle is refused."""
    with pytest.raises(shim.Refused, match="is in no message of ours"):
        shim.deserialize(pickle.dumps(found))


def test_what_would_run_other_code_is_refused() -> None:
    """A computation must be ours to the letter, and a job may bring nothing."""

    class _Compute(SimpleNamespace):
        pass

    class _DispyJob_(SimpleNamespace):  # noqa: N801 - dispy's own name
        pass

    ours = _Compute(
        type=1,
        name="draw",
        setup="prepare",
        code=job._CODE,
        dest_path=None,
        cleanup=True,
        xfer_files=[],
    )
    job.check(ours)
    for name, value in {"code": "import os", "name": "os.system", "setup": "evil"}.items():
        with pytest.raises(ValueError, match="not ours"):
            job.check(_Compute(**{**vars(ours), name: value}))
    with pytest.raises(ValueError, match="brings code"):
        job.check(_DispyJob_(code="import os", xfer_files=[]))
