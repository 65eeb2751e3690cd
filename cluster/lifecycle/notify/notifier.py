"""Sends messages through processes of their own, and supervises these."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from cluster.common.descriptors import give_back
from cluster.hosts.worker_pool import python_command
from cluster.lifecycle.notify.secret import Filled, SecretError, filled
from cluster.spec import Notify

# Seconds that a message may take, its process's own start included.
DEADLINE = 15.0
# Seconds that a killed one may take to end.
_ENDING = 2.0
_MOST_AT_ONCE = 8
_MOST_WORDS = 300
_WEBHOOK = "webhook "


@dataclass
class _Sent:
    """A message that is on its way."""

    event: str
    channel: str
    process: subprocess.Popen[bytes]
    output: IO[bytes] | None
    begun: float

    def kill(self) -> None:
        """Kill its whole process group, with whatever it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        # A process of another user, or one that waits for a dead disk, cannot be killed.
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_ENDING)


class Notifier:
    """Sends the messages of one start of a run.

    Args:
        notify: the recipients, and the events they want.
        note: records what became of a message, in words without secrets.
        deadline: seconds after which a message's process is killed.
    """

    def __init__(
        self, notify: Notify, note: Callable[[str], None], deadline: float = DEADLINE
    ) -> None:
        self._notify, self._note, self._deadline = notify, note, deadline
        self._sent: list[_Sent] = []
        self._address: Filled | None = None

    def prepare(self) -> str | None:
        """Read the secrets; returns what is wrong with them, in words: then nothing is posted."""
        if self._notify.webhook is not None:
            try:
                self._address = filled(self._notify.webhook, os.environ)
            except SecretError as error:
                return f"nobody is notified by webhook: {error}"
        return None

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message to the recipients named in the spec, if they want its event."""
        event = message["event"]
        if event not in self._notify.on:
            return
        if self._notify.command is not None:
            body = json.dumps(message)
            self._begin(event, self._notify.command[0], self._notify.command, body)
        if self._address is not None:
            host = urlsplit(self._address.text).netloc
            # On standard input: anybody can read the arguments of a process.
            order = {"url": self._address.text, "body": message, "timeout": self._deadline}
            words = python_command(sys.executable, "cluster.lifecycle.notify.post")
            self._begin(event, f"{_WEBHOOK}{host}", words, json.dumps(order))

    def look(self) -> None:
        """Record the outcome of ended processes, and kill late ones; returns at once."""
        for sent in list(self._sent):
            code = sent.process.poll()
            late = time.monotonic() - sent.begun > self._deadline
            if code is None and not late:
                continue
            self._sent.remove(sent)
            sent.kill()
            self._tell(sent, f"no answer within {self._deadline:g} s" if code is None else code)

    def finish(self) -> None:
        """Wait for messages on their way, at most until their deadlines."""
        try:
            while self._sent:
                self.look()
                time.sleep(0.02)
        finally:  # also where a person interrupts the wait
            for sent in self._sent:
                sent.kill()

    def _begin(self, event: str, channel: str, command: Sequence[str], body: str) -> None:
        if len(self._sent) >= _MOST_AT_ONCE:
            self._note(f"not notified of {event}: {_MOST_AT_ONCE} messages are on their way")
            return
        output = _file() if channel.startswith(_WEBHOOK) else None
        # A file, not a pipe: a process that does not read its input must not block this one.
        with _file() as given:
            given.write(body.encode())
            given.seek(0)
            try:
                process = subprocess.Popen(
                    command,
                    stdin=given,
                    stdout=output or subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                self._note(f"not notified of {event}: {channel}: {error.strerror}")
                return
        give_back(process.pid)
        self._sent.append(_Sent(event, channel, process, output, time.monotonic()))

    def _tell(self, sent: _Sent, code: int | str) -> None:
        words = self._words(sent)
        if code == 0:
            self._note(f"notified of {sent.event}: {sent.channel}{words and f': {words}'}")
        else:
            why = code if isinstance(code, str) else words or f"exit code {code}"
            self._note(f"not notified of {sent.event}: {sent.channel}: {why}")

    def _words(self, sent: _Sent) -> str:
        """The output of our own process; that of a command may hold secrets, and is dropped."""
        if sent.output is None or self._address is None:
            return ""
        with sent.output as output:
            output.seek(0)
            # Masked before it is cut: half a secret would not be recognized.
            words = self._address.masked(output.read().decode(errors="replace"))
            return words.strip()[:_MOST_WORDS]


def _file() -> IO[bytes]:
    """A temporary file without a name."""
    return tempfile.TemporaryFile()
