"""The dispatcher's side of a process that an engine has on a host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.common.backoff import backoff
from cluster.hosts.connect import Host

# A process beats each second; one that does not for so long is stopped, or its machine is.
BEAT, SILENT = 1.0, 6.0
# One that has lived so long has not failed at its start.
_STEADY, _LONGEST = 30.0, 15.0


class RemoteProcess:
    """A process on a host, started by the host's agent, and the next one when it is lost.

    It finds its first message on its standard input, and speaks JSON lines: whatever it says counts
    as a sign of life, and ``{"beat": n}`` is nothing else.

    Args:
        what: the person is told of it as.
        host: where; its agent must have shaken hands.
        module: of this package, whose ``main`` it runs.
        first: its first message; the place for secrets.
        ready: seconds within which it must be of use.

    Attributes:
        name: what the engine's driver knows it by; that of its host, until it is given another.
        heard: when it last said something; None before its first word.
        said: what that was, less the beats; None before.
    """

    def __init__(
        self, what: str, host: Host, module: str, first: Mapping[str, Any], ready: float
    ) -> None:
        self.name = host.name
        self.heard: float | None = None
        self.said: Mapping[str, Any] | None = None
        self._what, self._host, self._module, self._first = what, host, module, first
        self._ready = ready
        self._command: int | None = None
        self._failures = 0
        self._due = self._since = self._used = 0.0
        self._lost = ""

    def tend(self, now: float, *, used: bool) -> str:
        """Start it where that is due, and kill one that is silent or of no use.

        Args:
            now: the time, on a clock that stands still while nobody listens.
            used: whether the engine can use it.

        Returns:
            Why it was lost since the last call; empty where it was not.
        """
        if used or not self._host.ready:
            self._used = now
        if not self._host.ready:
            self.heard = None if self.heard is None else now
        elif self._command is None:
            if now >= self._due:
                self._start(now)
        elif fault := self._fault(now):
            self.kill(fault, now)
        lost, self._lost = self._lost, ""
        return lost

    def hear(self, message: Mapping[str, Any], now: float) -> Mapping[str, Any] | None:
        """Take in what the agent told of a command.

        Returns:
            What this process said, if it was that and no beat.
        """
        ours = (message.get("said"), message.get("exited"))
        if self._command is None or self._command not in ours:
            return None
        if "exited" in message:
            self._lose(f"{self._what} ended: {message['how']}", now)
            return None
        self.heard = now
        said: Mapping[str, Any] = message["message"]
        if "beat" in said:
            return None
        self.said = said
        return said

    def kill(self, reason: str, now: float) -> None:
        """End it, for this reason; another one is started."""
        if self._command is not None:
            self._host.kill(self._command)
            self._lose(reason, now)

    def _fault(self, now: float) -> str:
        """Why it is of no use any more, or empty."""
        if self.heard is not None and now - self.heard > SILENT:
            return f"{self._what} was silent for {SILENT:g} s"
        if now - self._used > self._ready:
            return f"{self._what} took no tasks for {self._ready:g} s"
        return ""

    def _start(self, now: float) -> None:
        self._command = self._host.start_module(self._module, self._first)
        self._since = self._used = now

    def _lose(self, reason: str, now: float) -> None:
        """The next one is started at once after a long life, and after a pause that grows else."""
        if self.heard is not None and now - self._since > _STEADY:
            self._failures = 0
        self._due = now + (backoff(self._failures - 1, 1.0, _LONGEST) if self._failures else 0.0)
        self._failures += 1
        self._command, self.heard, self.said, self._lost = None, None, None, reason
