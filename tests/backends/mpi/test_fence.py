"""What runs inside a fence listens on the address of the fence, or on no other host's account."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.mpi.fence import interface_of
from cluster.hosts.process_tree import descendants
from cluster.hosts.worker_pool import python_command
from tests.conftest import need
from tests.faults.battery import wait_until_gone

PROGRAM = """
import json, socket, subprocess, sys
if sys.argv[1:]:
    sys.exit(subprocess.call([sys.executable, "-c", open(sys.argv[1]).read()]))
found = []
for family, address in (
    (socket.AF_INET, ("", 0)), (socket.AF_INET6, ("::", 0)), (socket.AF_INET, ("127.0.0.1", 0)),
):
    with socket.socket(family) as one:
        one.bind(address)
        one.listen()
        found.append(one.getsockname()[0])
with socket.socket(socket.AF_UNIX) as one:
    one.bind("")
    found.append(one.getsockname()[:1].decode())
print(json.dumps(found))
"""


def fenced(address: str, *words: str) -> subprocess.Popen[str]:
    """Start a command inside."""
    need(platform.machine() in ("x86_64", "aarch64"), "a processor that the fence knows")
    command = python_command(sys.executable, "cluster.backends.mpi.fence", address, *words)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> Any:
    """Its document."""
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.parametrize("deep", [False, True])
def test_every_address_becomes_the_one(tmp_path: Path, deep: bool) -> None:
    """Of a command and of what it starts; of another family, none but this machine's own."""
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [str(tmp_path / "program.py")] * (2 if deep else 1)
    process = fenced("127.0.0.7", sys.executable, *words)
    assert said(process) == ["127.0.0.7", "::1", "127.0.0.1", "\0"]


def test_an_address_that_is_not_ours_is_refused_to_the_caller() -> None:
    """As if it had asked for it; nothing hangs."""
    text = "import socket; socket.socket().bind(('', 0))"
    process = fenced("203.0.113.1", sys.executable, "-c", text)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Cannot assign requested address" in err


def test_where_nobody_may_look_mpi_works_as_it_always_does(tmp_path: Path) -> None:
    """A container can forbid it: the command gets what it asked for, and it is said."""
    (tmp_path / "program.py").write_text(PROGRAM)
    text = """
from cluster.backends.mpi import fence

def forbidden(thread, place, size):
    raise PermissionError(13, "Permission denied")

fence._memory = forbidden
fence.main()
"""
    words = [sys.executable, "-c", text, "127.0.0.7", sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert json.loads(done.stdout)[:2] == ["0.0.0.0", "::"]
    assert "cannot be held to one address" in done.stderr


@pytest.mark.parametrize(("words", "code"), [("exit 3", 3), ("kill -9 $$", 137)])
def test_it_ends_as_the_command_does(words: str, code: int) -> None:
    """With its exit code, or 128 and the signal."""
    process = fenced("127.0.0.1", "/bin/sh", "-c", words)
    process.communicate(timeout=30)
    assert process.returncode == code


def test_a_command_that_is_not_there_is_said() -> None:
    """As a shell says it."""
    process = fenced("127.0.0.1", "no-such-command")
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (127, "no-such-command: No such file or directory\n")


def test_nothing_stays_when_it_is_killed() -> None:
    """The command goes with it."""
    process = fenced("127.0.0.1", "sleep", "600")
    deadline = time.monotonic() + 20
    while not (below := descendants(process.pid)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    wait_until_gone(set(below), 20.0)


def test_an_interface_is_found_by_its_address() -> None:
    """That of this machine itself; none for an address of others."""
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.1") == ""
