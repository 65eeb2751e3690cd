"""A child process is spoken to in lines, and nobody ever waits for it without an end."""

from __future__ import annotations

import selectors
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from cluster.hosts.child_process import Child

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    """What watches the child."""
    with selectors.DefaultSelector() as selector:
        yield selector


def started(code: str, selector: selectors.BaseSelector) -> Child:
    """A child that runs this."""
    return Child([sys.executable, "-c", code], selector)


def turn(selector: selectors.BaseSelector, until: float = 10.0) -> None:
    """Handle what has come."""
    for key, mask in selector.select(until):
        key.data(mask)


def test_messages_go_there_and_back_whatever_their_size(selector: selectors.BaseSelector) -> None:
    """More than a pipe holds is written as the pipe takes it."""
    child = started(ECHO, selector)
    sent = [[1, "a"], "x" * 300_000, {"n": None}]
    for message in sent:
        child.queue(message)
    child.send()
    got: list[object] = []
    while len(got) < len(sent):
        turn(selector)
        got += child.messages()
    assert got == sent
    child.close_input()
    child.wait(time.monotonic() + 10)
    assert child.reap() == "its process exited with 0"
    assert not selector.get_map()


@pytest.mark.fault(16)
def test_its_end_and_its_last_words_are_told(selector: selectors.BaseSelector) -> None:
    """The exit status, and the end of what it said on standard error."""
    child = started("import sys; sys.exit('out of cheese')", selector)
    while not child.gone:
        turn(selector)
    assert child.reap() == "its process exited with 1; its last words: out of cheese"


def test_one_that_cannot_be_killed_is_left_behind(
    selector: selectors.BaseSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that waits in the kernel does not make its owner wait for ever."""
    child = started("import time; time.sleep(60)", selector)

    def wait(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        assert timeout is not None
        raise subprocess.TimeoutExpired(process.args, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "wait", wait)
        assert "was not gone 5 s after SIGKILL" in child.reap()
    child._process.wait(10)
