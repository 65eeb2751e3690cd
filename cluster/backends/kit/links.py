"""The driver of a call engine: a link to each host's server, kept up by the engine's ``dial``."""

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

# How long a server keeps a call for outcomes waiting; each return of one is a beat of the link.
_POLL = 1.0
# A link without a beat for so long is given up; an engine whose calls can be given a deadline takes
# this one, so that its threads end as well.
_SILENT = 10.0
_LONGEST = 15.0
_MOST_TOGETHER = 1 << 17


class Link:
    """Two callers of a server, each in a thread: one gives tasks, one takes outcomes.

    Args:
        dial: the engine's.
        where: the server is.
        number: of its session, higher than any before.
        tell: is called, from the threads, with this link and the outcomes that came, an empty list
            included; or with the reason why it is of no use any more.

    Attributes:
        giving: a count that is odd while tasks are being given.
    """

    def __init__(
        self,
        dial: Dial,
        where: Where,
        number: int,
        tell: Callable[[Link, list[Any] | str], None],
    ) -> None:
        self._dial, self._where, self._number, self._tell = dial, where, number, tell
        self._tasks: SimpleQueue[Sequence[Any] | None] = SimpleQueue()
        self._closed = False
        self.giving = 0
        for run in (self._give, self._take):
            threading.Thread(target=self._guarded, args=(run,), daemon=True).start()

    def give(self, task: Sequence[Any]) -> None:
        """Have a task sent."""
        self._tasks.put(task)

    def close(self) -> None:
        """Have both threads end, as soon as the calls that they are in do."""
        self._closed = True
        self._tasks.put(None)

    def _guarded(self, run: Callable[[Call], None]) -> None:
        """In a thread: whatever an engine raises ends the link, and nothing else."""
        try:
            run(self._dial(self._where))
        except Exception as error:
            self._tell(self, str(error) or type(error).__name__)

    def _take(self, call: Call) -> None:
        seconds = 0.0  # the first answer says that the server is there
        while not self._closed:
            answer = call(json.dumps([self._number, seconds]))
            self._tell(self, [json.loads(line) for line in answer.splitlines()])
            seconds = _POLL

    def _give(self, call: Call) -> None:
        while (task := self._tasks.get()) is not None:
            lines = [json.dumps([self._number, 0.0]), json.dumps(task)]
            with suppress(Empty):
                while sum(map(len, lines)) < _MOST_TOGETHER:
                    if (more := self._tasks.get_nowait()) is None:
                        return
                    lines.append(json.dumps(more))
            self.giving += 1
            call("\n".join(lines))
            self.giving += 1


class HostLine:
    """A host, as the driver knows it.

    Attributes:
        link: to its server; None: it is to be dialled.
        up: the server has answered.
        out: ids of the tasks that it was given and has not answered.
        heard: when outcomes, or that there are none, came last.
        giving, since: the count of the link, and since when it is that.
        due: when to dial, after so many failures.
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
    """The carrier of call engines; see :class:`cluster.backends.kit.carry.Carrier`.

    Args:
        dial: the engine's.
        silent: seconds without a beat after which a link is given up.
    """

    def __init__(self, dial: Dial, silent: float = _SILENT) -> None:
        self._dial, self._silent = dial, silent
        self._lines: dict[str, HostLine] = {}
        self._news: Mailbox[tuple[Link, list[Any] | str]] = Mailbox()
        self.wake = self._news.bell
        self._lost: list[dict[str, Any]] = []
        self._clock = ListeningClock()
        self._number = time.monotonic_ns()

    def join(self, host: Mapping[str, Any]) -> None:
        """A host's server is there: ``name``, ``slots``, and where it is."""
        if before := self._lines.get(str(host["name"])):
            self._drop(before, "its server was started anew")
        self._lines[str(host["name"])] = HostLine(host, self._silent)

    def leave(self, name: str, reason: str) -> None:
        """See Carrier."""
        if line := self._lines.pop(name, None):
            self._drop(line, reason)

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """See Carrier."""
        line = self._lines.get(name or "")
        if line is None or line.link is None or not line.up:
            self._lost.append({"lost": task[0], "reason": "its server is not there"})
        else:
            line.out.add(task[0])
            line.link.give(task)

    def tend(self) -> Iterator[Mapping[str, Any]]:
        """See Carrier."""
        now = self._clock.look()
        for link, news in self._news.take():
            yield from self._hear(link, news, now)
        for line in self._lines.values():
            if line.link is None:
                if now >= line.due:
                    self._connect(line, now)
            elif self._is_late(line, line.link, now):
                yield from self._give_up(line, f"no answer for {self._silent:g} s", now)
        lost, self._lost = self._lost, []
        yield from lost

    def _is_late(self, line: HostLine, link: Link, now: float) -> bool:
        """Whether one of the two callers had no answer for too long."""
        if link.giving != line.giving:
            line.giving, line.since = link.giving, now
        gives = link.giving % 2 and now - line.since > self._silent
        return now - line.heard > self._silent or bool(gives)

    def _connect(self, line: HostLine, now: float) -> None:
        self._number += 1
        line.heard, line.giving = now, 0
        line.link = Link(self._dial, line.where, self._number, self._tell)

    def _tell(self, link: Link, news: list[Any] | str) -> None:
        """From a link's threads."""
        self._news.put((link, news))

    def _hear(self, link: Link, news: list[Any] | str, now: float) -> Iterator[Mapping[str, Any]]:
        line = next((line for line in self._lines.values() if line.link is link), None)
        if isinstance(news, list):
            # What a link brings that was given up is late, not wrong.
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
        """A link is of no use: what it had is lost, and its server is dialled anew."""
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
