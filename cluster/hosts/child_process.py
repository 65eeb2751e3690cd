"""A child process that exchanges JSON lines with its owner, without blocking I/O.

A selector watches its pipes and its end. Its owner can kill it at any time, with everything that it
forked, and then learns how it ended and what it printed last.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any, cast

from cluster.common.descriptors import give_back
from cluster.hosts.jsonlines import Connection, take
from cluster.hosts.prints import Prints
from cluster.hosts.process_tree import die_with_parent

# Bytes kept of what it printed last. faulthandler prints the innermost calls of a crash first, so
# a whole trace must fit.
_TAIL = 8_000
# Seconds for a process to end after SIGKILL.
_DYING = 5.0


class Child:
    """One process, in a session of its own.

    Args:
        command: the program and its arguments; no shell is involved.
        selector: watches the process; each key's data is a handler, called with the event mask.
        environment: its environment variables; None: this process's.
        folder: its working directory; None: this process's.
        descriptors: file descriptors that it inherits.
        talks: its standard output is JSON lines; otherwise it is output for people, as is its
            standard error in either case.
        leashed: the kernel kills it when this process dies (Linux).

    Attributes:
        gone: it has ended; ``reap`` describes how.
        prints: its output for people.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        selector: selectors.BaseSelector,
        *,
        environment: Mapping[str, str] | None = None,
        folder: str | None = None,
        descriptors: Sequence[int] = (),
        talks: bool = True,
        leashed: bool = False,
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=descriptors,
            start_new_session=True,
            cwd=folder,
            env=environment,
            preexec_fn=die_with_parent if leashed else None,  # noqa: PLW1509 - the agent has no threads
        )
        give_back(self._process.pid)
        try:
            self._end = os.pidfd_open(self._process.pid)
        except OSError:
            with self._process:  # closes the pipes and waits for it
                self._process.kill()
            raise
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._pipes = [cast("IO[bytes]", pipe) for pipe in pipes]
        stdin, stdout, stderr = (pipe.fileno() for pipe in self._pipes)
        self._selector, self._tail = selector, b""
        self.prints = Prints()
        self._wire = Connection(stdout if talks else None, stdin, selector)
        self._words = [stderr] if talks else [stdout, stderr]
        self._watched: set[int] = set()
        for descriptor in self._words:
            os.set_blocking(descriptor, False)
            self._watch(descriptor, lambda _mask: self._read_words())
        self._watch(self._end, self._on_end)
        self.gone = self._killed = False

    @property
    def pid(self) -> int:
        """Its process ID, which is also that of its process group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None until it is reaped."""
        return self._process.returncode

    def queue(self, message: object) -> None:
        """Queue a message for it; ``send`` sends it."""
        self._wire.queue(message)

    def send(self) -> None:
        """Write as much as the pipe takes now; the selector writes the rest later."""
        self._wire.send()

    def messages(self) -> list[Any]:
        """The messages received since the last call."""
        if self._wire.wrong:
            self.complain(self._wire.wrong)
        return self._wire.messages()

    def listen(self) -> None:
        """Read its output for people up to now."""
        self._read_words()

    def complain(self, words: str) -> None:
        """Kill it, and append the reason to its last output."""
        line = words.encode()
        if line not in self._tail:
            self._tail += b"\n" + line
        self.kill()

    def kill(self) -> None:
        """Kill it, and everything that it forked."""
        self._killed = self._killed or not self._has_ended()
        self._kill_group()

    def _kill_group(self) -> None:
        # Once it is reaped, its process group ID may be reused.
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)

    @property
    def words(self) -> str:
        """The end of its output for people."""
        return self._tail.decode(errors="replace").strip()

    def close_input(self) -> None:
        """Close its standard input, which tells it to end."""
        self._wire.stop_sending()
        self._pipes[0].close()

    def wait(self, deadline: float) -> None:
        """Wait for its end until a deadline, in seconds of the monotonic clock."""
        while not self._has_ended() and time.monotonic() < deadline:
            time.sleep(0.002)

    def reap(self) -> str:
        """Read its last output, kill what is left of its process group, and describe its end."""
        self._wire.read()
        self._read_words()
        self._kill_group()
        status = self._status()
        self._wire.close()
        for descriptor in tuple(self._watched):
            self._unwatch(descriptor)
        os.close(self._end)
        for pipe in self._pipes:
            pipe.close()
        return _describe(status, self._tail, self._killed)

    def _status(self) -> int | None:
        """Its exit status; None if even SIGKILL does not end it, as in a wait for a dead disk."""
        try:
            return self._process.wait(_DYING)
        except subprocess.TimeoutExpired:
            return None

    def _has_ended(self) -> bool:
        # Without reaping it: its ID must stay valid until the whole process group is killed.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        if self._process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.pid, options) is not None

    def _on_end(self, _mask: int) -> None:
        self.gone = True
        self._unwatch(self._end)

    def _watch(self, descriptor: int, handler: Any) -> None:
        self._watched.add(descriptor)
        self._selector.register(descriptor, selectors.EVENT_READ, handler)

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            self._selector.unregister(descriptor)

    def _read_words(self) -> None:
        # Always read, so that printing never blocks it.
        for descriptor in self._words:
            data = take(descriptor)
            if data is None:
                self._unwatch(descriptor)
            else:
                self._tail = (self._tail + data[-_TAIL:])[-_TAIL:]
                self.prints.add(data)


def _describe(status: int | None, tail: bytes, killed: bool) -> str:
    words = tail.decode(errors="replace").strip()
    if status is None:
        cause = f"its process was not gone {_DYING:g} s after SIGKILL, and is left behind"
    elif killed:
        cause = "its process was killed"
    elif status >= 0:
        cause = f"its process exited with {status}"
    elif -status == signal.SIGKILL:
        cause = "its process was killed (SIGKILL; by the kernel, if the machine ran out of memory)"
    else:
        cause = f"its process died of {signal.Signals(-status).name}"
    return f"{cause}; its last words: {words}" if words else cause
