"""The server of the engine zeromq, and who gets an answer from it."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

zmq = pytest.importorskip("zmq")

from cluster.backends import zeromq  # noqa: E402 - it imports zmq
from cluster.backends.kit import curve  # noqa: E402 - it imports zmq

# A caller has no close: what it has ends when nobody has it any more.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SECRET = "a" * 64
# Answers by the same text, reversed, and says on its standard error that it was asked.
SERVES = """
import json, sys
from cluster.backends import zeromq

def draw(text):
    print("asked:", text[:9], file=sys.stderr, flush=True)
    return text[::-1]

def announce(what):
    print(json.dumps(what), flush=True)

zeromq.serve(draw, json.loads(sys.stdin.readline()), announce)
"""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test leaves to the collector is collected within it."""
    yield
    gc.collect()


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """One at work, and where it is."""
    first = {"address": "127.0.0.1", "secret": SECRET}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            process.stdin.write(json.dumps(first) + "\n")
            process.stdin.flush()
            yield process, {**first, **json.loads(process.stdout.readline()), "patience": 5.0}
        finally:
            process.kill()


def test_only_who_knows_the_secret_is_answered_or_read(
    server: tuple[subprocess.Popen[str], dict[str, Any]],
) -> None:
    """Not one who speaks plainly, has another secret, or knows but the server's public key."""
    process, place = server
    with zmq.Context() as context:
        for keys in range(3):
            with context.socket(zmq.REQ) as stranger:
                stranger.linger = 0
                if keys:
                    stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
                    known = SECRET if keys == 2 else "b" * 64
                    stranger.curve_serverkey = curve.keys(known, "server")[0]
                stranger.rcvtimeo = 500
                stranger.connect(f"tcp://127.0.0.1:{place['port']}")
                stranger.send_string("stranger")
                with pytest.raises(zmq.Again):
                    stranger.recv()
    call = zeromq.dial(place)
    assert [call(text) for text in ("abc", "", "é" * 300_000)] == ["cba", "", "é" * 300_000]
    process.kill()
    assert process.stderr is not None
    said = process.stderr.read()
    assert "asked: abc" in said
    assert "stranger" not in said


def test_a_call_of_a_server_that_is_gone_ends(
    server: tuple[subprocess.Popen[str], dict[str, Any]],
) -> None:
    """After its patience, in the thread that made it."""
    process, place = server
    call = zeromq.dial({**place, "patience": 0.3})
    assert call("abc") == "cba"
    process.kill()
    with pytest.raises(zmq.Again):
        call("abc")
