"""The driver of a call engine: it keeps a link to each host's server, by the engine's ``dial``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from queue import Empty, SimpleQueue
from typing import Any

from cluster.backends.kit.calls import Call, Where
from cluster.backends.kit.carry import Carrier, carry
from cluster.backends.kit.mailbox import Mailbox
from cluster.common.backoff import ListeningClock, backoff

Dial = Callable[[Where], Call]

# Seconds that a server may keep a call for outcomes waiting (a long poll). Each return of such a
# call is the heartbeat of the link: engines' own detection of dead peers cannot be relied on.
_POLL = 1.0
# Seconds without a heartbeat after which a link is given up. It is also the deadline of the
# engine's calls, if it has one, so that the threads of an abandoned link end.
_SILENT = 10.0
# The longest pause between attempts to dial, in seconds.
_LONGEST = 15.0
# Characters of tasks that one call carries.
_MOST_TOGETHER = 1 << 17


class Link:
    """Two callers of a server, each in a thread: one gives tasks, one takes outcomes.

    With a single caller, tasks would have to wait for the end of a long poll.

    Args:
        dial: the engine's.
        where: the server's address, as :data:`Dial` takes it.
        number: of the session, higher than any before at this server.
        tell: called from the threads, with this link and either the outcomes that arrived (possibly
            none) or the reason why the link is unusable.

    Attributes:
        giving: a count that is odd while a call with tasks is in progress.
    """

    def __init__(
        self,
        dial: Dial,
        where: Where,
        number: int,
        tell: Callable[[Link, list[Any] | str], None],
    ) -> None:
        self._dial, self._where, self._number, self._notify = dial, where, number, tell
        self._tasks: SimpleQueue[Sequence[Any] | None] = SimpleQueue()
        self._closed = False
        self.giving = 0
        for run in (self._give, self._take):
            threading.Thread(target=self._guarded, args=(run,), daemon=True).start()

    def give(self, task: Sequence[Any]) -> None:
        """Queue a task for the server."""
        self._tasks.put(task)

    def close(self) -> None:
        """Let both threads end as soon as their current calls return."""
        self._closed = True
        self._tasks.put(None)

    def _guarded(self, run: Callable[[Call], None]) -> None:
        """In a thread: any exception of an engine ends the link, and only the link."""
        try:
            run(self._dial(self._where))
        except Exception as error:
            self._notify(self, str(error) or type(error).__name__)

    def _take(self, call: Call) -> None:
        seconds = 0.0  # the first answer comes at once, and shows that the server is up
        while not self._closed:
            answer = call(json.dumps([self._number, seconds]))
            self._notify(self, [json.loads(line) for line in answer.splitlines()])
            seconds = _POLL

    def _give(self, call: Call) -> None:
        while (task := self._tasks.get()) is not None:
            lines = [json.dumps([self._number, 0.0]), json.dumps(task)]
            with suppress(Empty):
                # All tasks that wait share a call: its round trip costs more than they do.
                while sum(map(len, lines)) < _MOST_TOGETHER:
                    if (more := self._tasks.get_nowait()) is None:
                        return
                    lines.append(json.dumps(more))
            self.giving += 1
            call("\n".join(lines))
            self.giving += 1


class HostLine:
    """The driver's view of a host.

    Attributes:
        where: what the engine's ``dial`` gets.
        name: of the host.
        slots: of the host.
        link: to its server; None: it has to be dialled.
        up: the server has answered.
        out: ids of the tasks that it was given, without an outcome so far.
        heard: when a call for outcomes last returned, with or without any.
        giving: the link's count when it was last looked at.
        since: when that count was first seen.
        due: when to dial next.
        failures: consecutive links that failed.
    """

    def __init__(self, host: Mapping[str, Any], patience: float) -> None:
        self.where: Where = {**host, "patience": patience}
        self.name, self.slots = str(host["name"]), int(host["slots"])
        self.link: Link | None = None
        self.up = False
        self.out: set[int] = set()
        self.heard = self.since = self.due = 0.0
        self.giving = self.failures = 0


class Links(Carrier):
    """The carrier of call engines.

    Args:
        dial: the engine's.
        silent: seconds without a heartbeat after which a link is given up.
    """

    def __init__(self, dial: Dial, silent: float = _SILENT) -> None:
        self._dial, self._silent = dial, silent
        self._lines: dict[str, HostLine] = {}
        self._news: Mailbox[tuple[Link, list[Any] | str]] = Mailbox()
        self.wake = self._news.bell
        self._lost: list[dict[str, Any]] = []
        self._clock = ListeningClock()
        # Session numbers: higher than those of any earlier driver of this dispatcher, so that
        # servers, which outlive drivers, drop what a dead one still had in transit.
        self._number = time.monotonic_ns()

    def join(self, host: Mapping[str, Any]) -> None:
        """Dial a host's server from now on.

        Args:
            host: ``name``, ``slots``, ``address``, ``secret``, and what the server announced.
        """
        if before := self._lines.get(str(host["name"])):
            self._drop(before, "its server was started anew")
        self._lines[str(host["name"])] = HostLine(host, self._silent)

    def leave(self, name: str, reason: str) -> None:
        """Close the link to a host's server; its tasks are lost."""
        if line := self._lines.pop(name, None):
            self._drop(line, reason)

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """Give a task to the server of a host; lost at once if the link is down."""
        line = self._lines.get(name or "")
        if line is None or line.link is None or not line.up:
            self._lost.append({"lost": task[0], "reason": "its server is not there"})
        else:
            line.out.add(task[0])
            line.link.give(task)

    def tend(self) -> Iterator[Mapping[str, Any]]:
        """Report what the links' threads brought; dial, and give up links that are late."""
        now = self._clock.look()
        for link, news in self._news.take():
            yield from self._on_news(link, news, now)
        for line in self._lines.values():
            if line.link is None:
                if now >= line.due:
                    self._connect(line, now)
            elif self._is_late(line, line.link, now):
                yield from self._give_up(line, f"no answer for {self._silent:g} s", now)
        lost, self._lost = self._lost, []
        yield from lost

    def _is_late(self, line: HostLine, link: Link, now: float) -> bool:
        """Whether one of the two callers has waited too long for an answer."""
        if link.giving != line.giving:
            line.giving, line.since = link.giving, now
        gives = link.giving % 2 and now - line.since > self._silent
        return now - line.heard > self._silent or bool(gives)

    def _connect(self, line: HostLine, now: float) -> None:
        self._number += 1
        line.heard, line.giving = now, 0
        line.link = Link(self._dial, line.where, self._number, self._notify)

    def _notify(self, link: Link, news: list[Any] | str) -> None:
        """Called from a link's threads: wake the driver's loop."""
        self._news.put((link, news))

    def _on_news(
        self, link: Link, news: list[Any] | str, now: float
    ) -> Iterator[Mapping[str, Any]]:
        line = next((line for line in self._lines.values() if line.link is link), None)
        if isinstance(news, list):
            # Outcomes of a link that was given up are late, but valid: pass them on as well.
            yield from ({"outcome": outcome} for outcome in news)
        if line is None:
            return
        if isinstance(news, str):
            yield from self._give_up(line, news, now)
            return
        line.heard = now
        line.out.difference_update(outcome[0] for outcome in news)
        if not line.up:
            line.up, line.failures = True, 0
            yield {"up": line.name, "slots": line.slots, "reason": "ready"}

    def _give_up(self, line: HostLine, reason: str, now: float) -> Iterator[Mapping[str, Any]]:
        """Give up a link: its tasks are lost, and its server is dialled again, after a pause."""
        line.due = now + (backoff(line.failures - 1, 1.0, _LONGEST) if line.failures else 0.0)
        line.failures += 1
        at = f"{line.where['address']} port {line.where['port']}"
        reason = f"its server at {at} cannot be reached from here: {reason}"
        self._drop(line, reason)
        yield {"down": line.name, "reason": reason}

    def _drop(self, line: HostLine, reason: str) -> None:
        if line.link is not None:
            line.link.close()
        self._lost += ({"lost": number, "reason": reason} for number in sorted(line.out))
        line.out.clear()
        line.link, line.up = None, False


def main() -> None:
    """Serve until the parent ends. Started by the dispatcher, never by hand."""
    carry(lambda setup: Links(import_module(setup["module"]).dial))


if __name__ == "__main__":
    main()
