"""Commands as processes that need not load anything: they are forked off one that has.

Most of what a short command takes is the loading of modules. One that is forked goes through the
same ``main``, and has its own output, signals and exit code. What Python is told when it starts
(hash seed, path, encoding) cannot be changed any more: a command that wants it otherwise is none
for this.

    python -m tests.cli.warm SOCKET

listens there until its stdin ends.
"""

from __future__ import annotations

import json
import os
import pkgutil
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
Done = subprocess.CompletedProcess[str]


class Asked(NamedTuple):
    """A command: its arguments, working folder, environment and umask."""

    arguments: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    umask: int


def run(
    arguments: Sequence[str], cwd: Path, env: Mapping[str, str], patience: float
) -> Done | None:
    """Run a command to its end; None where Python itself must start it.

    Args:
        arguments: of the command, from the verb on.
        cwd: its working folder.
        env: its environment.
        patience: seconds after which it is killed.

    Raises:
        subprocess.TimeoutExpired: it did not end in time.
    """
    place, started_with, _ = _warm(os.getpid())
    env = {"PYTHONHASHSEED": "0", **env}
    if _at_start(env) != started_with:
        return None
    os.umask(mask := os.umask(0))
    pipes = [*os.pipe(), *os.pipe()]
    try:
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(place)
            except OSError:  # a test has ended it, with all that was here
                _warm.cache_clear()
                return None
            asked = json.dumps(Asked([*arguments], str(cwd), env, mask)).encode()
            socket.send_fds(line, [len(asked).to_bytes(8)], pipes[1::2])
            line.sendall(asked)
            for end in (pipes.pop(), pipes.pop(1)):
                os.close(end)
            pid = int.from_bytes(line.recv(8))
            try:
                told = _read_all(pipes, time.monotonic() + patience)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired([*arguments], patience) from None
            status = int.from_bytes(line.recv(8))
    finally:
        for end in pipes:
            os.close(end)
    return Done([*arguments], os.waitstatus_to_exitcode(status), *told)


def _at_start(env: Mapping[str, str]) -> Mapping[str, str]:
    """What Python reads of an environment once, when it starts."""
    words = ("PYTHON", "LC_", "LANG")
    return {name: value for name, value in env.items() if name.startswith(words)}


@cache
def _warm(_process: int) -> tuple[str, Mapping[str, str], subprocess.Popen[bytes]]:
    """The warm process of this one: where it listens, and what it was started with."""
    place = f"{tempfile.mkdtemp(prefix='cluster-warm-')}/socket"
    # The hash seed is the one with which the verbs that draw begin anew.
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cli.warm", place],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
        env=env,
        start_new_session=True,  # what a test signals to its own group is not for it
    )
    deadline = time.monotonic() + 60
    while not os.path.exists(place):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return place, _at_start(env), process


def _read_all(pipes: Sequence[int], deadline: float) -> list[str]:
    """All that comes out of pipes, until the other sides are closed."""
    read = dict.fromkeys(pipes, b"")
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                read[key.fd] += (data := os.read(key.fd, 1 << 16))
                if not data:
                    selector.unregister(key.fd)
    return [text.decode() for text in read.values()]


# -- the warm process ------------------------------------------------------------------------------


def _load() -> None:
    import cluster.cli

    for module in pkgutil.iter_modules(cluster.cli.__path__, "cluster.cli."):
        import_module(module.name)
    for name in ("cluster.api", "cluster.backends.processes", "cluster.backends.threads", "numpy"):
        import_module(name)


def _serve(place: str) -> Asked | None:
    """Wait for commands; returns each in a process of its own, and None at the end."""
    with socket.socket(socket.AF_UNIX) as door, selectors.DefaultSelector() as selector:
        door.bind(f"{place}.new")
        door.listen(64)
        os.rename(f"{place}.new", place)
        for each in (door, sys.stdin):
            selector.register(each, selectors.EVENT_READ)
        while sys.stdin not in (ready := {key.fileobj for key, _ in selector.select()}):
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            line = door.accept()[0] if ready else None
            if line is not None and not _fork():
                break
            if line is not None:
                line.close()
        else:
            return None
    with line:
        return _mind(line)


def _mind(line: socket.socket) -> Asked:
    """Fork off what is asked, and say how it ends; returns in the fork alone."""
    length, descriptors, _, _ = socket.recv_fds(line, 8, 2)
    text = b""
    while len(text) < int.from_bytes(length):
        text += line.recv(1 << 16)
    if child := _fork():
        for descriptor in descriptors:
            os.close(descriptor)
        line.sendall(child.to_bytes(8))
        line.sendall(os.waitpid(child, 0)[1].to_bytes(8))
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for at, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, at)
    os.closerange(3, max(descriptors) + 1)
    return Asked(*json.loads(text))


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the threads of numpy's library know how to be forked
        return os.fork()


def main() -> int:
    """Serve; and in each process that is forked, be the command."""
    _load()
    asked = _serve(sys.argv[1])
    if asked is None:
        shutil.rmtree(Path(sys.argv[1]).parent)
        return 0
    os.chdir(asked.cwd)
    os.umask(asked.umask)
    os.environ.clear()
    os.environ.update(asked.env)
    sys.argv[1:] = asked.arguments
    sys.path[0] = asked.cwd
    from cluster.__main__ import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
