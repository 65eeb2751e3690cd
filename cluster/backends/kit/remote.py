"""The dispatcher's side of an engine's process on a host: it starts, watches and restarts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.common.backoff import backoff
from cluster.hosts.connect import Host

# Seconds between heartbeats, and without one after which a process hangs (or is stopped).
BEAT, SILENT = 1.0, 6.0
# A process that ran this many seconds resets the backoff, whose pauses are at most _LONGEST.
_STEADY, _LONGEST = 30.0, 15.0


class RemoteProcess:
    """A process on a host, started by the host's agent and restarted when it is lost.

    It reads its first message from standard input and writes JSON lines. Every message is a sign of
    life; ``{"beat": n}`` is nothing more than that.

    Args:
        what: its name in messages for people.
        host: its host, whose agent must have completed the handshake.
        module: a module of this package, whose ``main`` it runs.
        first: its first message; secrets go here, not into arguments.
        ready: seconds within which the engine must be able to use it.

    Attributes:
        name: the driver's name for it: that of its host, unless the engine sets another.
        heard: when its last message came; None: none so far.
        said: the last message that was no heartbeat; None: none so far.
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
        """Start it when that is due; kill it if it is silent or unusable for too long.

        Args:
            now: seconds of the dispatcher's :class:`~cluster.common.backoff.ListeningClock`.
            used: whether the engine can use it at present.

        Returns:
            Why it was lost since the last call; empty if it was not.
        """
        if used or not self._host.ready:
            self._used = now
        if not self._host.ready:
            # While the agent is silent, nothing can be heard of its processes: pause their clocks.
            self.heard = None if self.heard is None else now
        elif self._command is None:
            if now >= self._due:
                self._start(now)
        elif fault := self._fault(now):
            self.kill(fault, now)
        lost, self._lost = self._lost, ""
        return lost

    def hear(self, message: Mapping[str, Any], now: float) -> Mapping[str, Any] | None:
        """Process an agent's report about a command.

        Args:
            message: the agent's, about this process or any other.
            now: seconds of the dispatcher's clock.

        Returns:
            The message of this process; None if it was a heartbeat, or about something else.
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
        """Kill it; :meth:`tend` reports the reason and starts another one.

        Args:
            reason: for people.
            now: seconds of the dispatcher's clock.
        """
        if self._command is not None:
            self._host.kill(self._command)
            self._lose(reason, now)

    def _fault(self, now: float) -> str:
        """Why it is unusable; empty if it is healthy."""
        if self.heard is not None and now - self.heard > SILENT:
            return f"{self._what} was silent for {SILENT:g} s"
        if now - self._used > self._ready:
            return f"{self._what} took no tasks for {self._ready:g} s"
        return ""

    def _start(self, now: float) -> None:
        self._command = self._host.start_module(self._module, self._first)
        self._since = self._used = now

    def _lose(self, reason: str, now: float) -> None:
        """Schedule the next process: at once after the first failure or a long life, else later."""
        if self.heard is not None and now - self._since > _STEADY:
            self._failures = 0
        self._due = now + (backoff(self._failures - 1, 1.0, _LONGEST) if self._failures else 0.0)
        self._failures += 1
        self._command, self.heard, self.said, self._lost = None, None, None, reason
