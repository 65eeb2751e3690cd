"""One host of a run: its agent, and the next one when that is lost."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from cluster.common.backoff import ListeningClock, backoff
from cluster.common.version import __version__
from cluster.hosts.child_process import Child
from cluster.hosts.connect import srun
from cluster.hosts.connect.lacking import installing
from cluster.hosts.connect.ssh import Trouble, agent_command, agent_environment, is_here, trouble
from cluster.hosts.fingerprint import differences, missing_module, probe, table
from cluster.hosts.nodes import Node
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Work


@dataclass(frozen=True)
class Patience:
    """How long is waited for what, in seconds.

    Attributes:
        beat: between two heartbeats.
        silent: without a word, after which a host's slots do not count and its tasks are given
            to others.
        lost: without a word, after which the connection is given up.
        silence: after which the agent gives up from its side; less than ``lost``, so that no two
            agents of one run work on a host.
        first, longest: before the first and, growing, between further attempts to reach a host.
        ready: within which an attempt must have shaken hands.
        probe: within which a probe of the kernel must have come back.
        others: in which hosts that are not up yet are waited for where those that are differ.
    """

    beat: float = 2.0
    silent: float = 6.0
    lost: float = 27.0
    silence: float = 25.0
    first: float = 1.0
    longest: float = 15.0
    ready: float = 60.0
    probe: float = 30.0
    others: float = 20.0


Reach = Callable[[Node], Sequence[str]]


class ClockOffset(NamedTuple):
    """How far a host's clock is ahead of ours, and within what: seconds."""

    ahead: float
    within: float


class HostState(Enum):
    """Where a host stands."""

    STARTING = "starting"
    READY = "ready"
    SILENT = "silent"
    AWAY = "away"
    REFUSED = "refused"


class Host:
    """A host, as the dispatcher sees it.

    Args:
        node: how to reach it.
        first: what an agent is told first, less the node.
        here: the dispatcher's own fingerprint.
        selector: watches the connection.
        reach: the command that reaches its agent.

    Attributes:
        standing: where it stands; only a READY host may be given tasks.
        reason: in words.
        fix: what the person can do about it, or empty.
        hello: what the agent said of itself; empty before.
        probes, asked, lost_probes, twice, remark, is_own: see
            :class:`cluster.hosts.connect.judge.Prober`.
        drawing: since when its next probe is awaited, on the clock of what is heard; None: no
            worker is there to draw it.
        clock: its clock beside ours, as the quickest heartbeat told; None before the first.
        usable: worker processes that are ready there.
        born: how many agents there were.
    """

    def __init__(
        self,
        node: Node,
        first: Mapping[str, Any],
        here: Mapping[str, str],
        selector: selectors.BaseSelector,
        patience: Patience,
        reach: Reach = agent_command,
    ) -> None:
        self.node, self.standing = node, HostState.AWAY
        self.reason, self.fix = "not reached yet", ""
        self.hello: dict[str, Any] = {}
        self.probes: dict[int, str] = {}
        self.asked, self.lost_probes, self.remark, self.is_own = False, 0, "", False
        self.drawing: float | None = None
        self.twice: int | None = None
        self.clock: ClockOffset | None = None
        self._left: dict[int, float] = {}
        self.usable = self.born = 0
        self._first, self._here = first, here
        self._selector, self._patience, self._reach = selector, patience, reach
        self._agent: Child | None = None
        self._commands = self._number = 0
        self._knows: set[str] = set()
        self._told: set[str] = set()
        self._failures, self._next_try = 0, 0.0
        self._attention = ListeningClock()
        self._since = self._heard = self._beaten = 0.0

    @property
    def name(self) -> str:
        """As the spec has it."""
        return self.node.host

    @property
    def ready(self) -> bool:
        """Whether it may be given tasks."""
        return self.standing is HostState.READY

    @property
    def here(self) -> bool:
        """Whether it is this machine, reached without ssh."""
        return is_here(self.node)

    @property
    def ended(self) -> bool:
        """Whether there is no agent, or it has ended."""
        return self._agent is None or self._agent.gone

    @property
    def overdue(self) -> bool:
        """Whether a probe has not come back in its time."""
        late = self._attention.now - self._patience.probe
        return self.drawing is not None and self.drawing < late

    # -- towards it -------------------------------------------------------------------------------

    def say(self, message: Mapping[str, Any]) -> None:
        """Tell its agent something; ``send`` sends it."""
        if self._agent is not None:
            self._agent.queue(message)

    def send(self) -> None:
        """Send what was said."""
        if self._agent is not None:
            self._agent.send()

    def introduce(self, work: Work | None) -> None:
        """Tell it of the work of a further run, before the first task of that."""
        if work is not None and work.run not in self._knows:
            self._knows.add(work.run)
            self.say({"work": work.to_json(self._told)})

    def ask(self, number: int, work: Work, *, anew: bool = False) -> None:
        """Have it draw a further probe, ``anew`` in the same time; its outcome is as of a task."""
        self.drawing = self.drawing if anew else self._attention.now
        few, task = probe(work, number)
        self.introduce(few)
        self.say({"tasks": [task]})

    def drew(self, number: int, probe: str) -> None:
        """Take in how a probe came out there; the next one has its time from now on."""
        self.probes[number], self.drawing = probe, self._attention.now

    def start(
        self,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        first: object = None,
        *,
        talks: bool = True,
    ) -> int:
        """Have its agent start a command for an engine; its number in what is heard of it.

        Args:
            command: arguments; ``{python}`` alone stands for the interpreter of the agent.
            environment: beside what the agent gives every command.
            first: a message that the command finds on its standard input: the place for secrets.
            talks: whether it prints JSON lines, each of which is passed on.
        """
        self._commands += 1
        words = [self.hello["interpreter"] if word == "{python}" else word for word in command]
        self.say(
            {
                "start": {
                    "id": self._commands,
                    "command": words,
                    "env": dict(environment or {}),
                    "input": first,
                    "talks": talks,
                }
            }
        )
        return self._commands

    def start_module(self, module: str, first: object = None) -> int:
        """Have its agent start ``main`` of a module of this package; see :meth:`start`."""
        there = ["{python}", "-P", "-m", module]
        return self.start(
            python_command("{python}", module) if is_here(self.node) else there, first=first
        )

    def kill(self, command: int) -> None:
        """Have its agent kill a command that it started."""
        self.say({"kill": command})

    def installing(self, module: str) -> str:
        """The line that installs a module there that the kernel needs."""
        return installing(module, self.node, self.hello.get("interpreter"))

    def refuse(self, reason: str, fix: str = "") -> None:
        """Never use it again."""
        self._drop()
        self.standing, self.reason, self.fix = HostState.REFUSED, reason, fix

    # -- what comes of it -------------------------------------------------------------------------

    def tend(self) -> Iterator[Any]:
        """See to the connection; every message that is not about the connection itself."""
        now = self._attention.look()
        if self._agent is None:
            if self.standing is not HostState.REFUSED and now >= self._next_try:
                self._launch(now)
            return
        for message in self._agent.messages():
            self._hear(now)
            if not self._is_own(message):
                yield message
            if self._agent is None:
                return  # refused, for what it said
        if self._agent.gone:
            self._on_end()
        else:
            self._look(now)

    def close(self) -> None:
        """Tell its agent to end, by ending its input."""
        if self._agent is not None:
            self._agent.close_input()

    def end(self, deadline: float) -> None:
        """Wait for its agent's end until a deadline, then end the connection by force.

        One that was not heard of lately is not waited for: it will end by itself.
        """
        if self._agent is not None:
            if self._attention.look() - self._heard < 2 * self._patience.beat:
                self._agent.wait(deadline)
            self._drop()

    def _launch(self, now: float) -> None:
        self.standing, self.hello, self.probes = HostState.STARTING, {}, {}
        self.usable, self._number = 0, 0
        self._knows, self._told = set(), set()
        self.clock, self._left, self.asked, self.lost_probes = None, {}, False, 0
        self.drawing = self.twice = None
        self.born += 1
        self._since = self._heard = self._beaten = now
        by_step = srun.reaches(self.node)
        start = srun.agent_command if by_step else self._reach
        try:
            self._agent = Child(
                start(self.node), self._selector, environment=agent_environment(self.node)
            )
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            self._away(Trouble(f"{error.strerror}{place}", "", is_here(self.node)))
            return
        way = "here" if is_here(self.node) else "srun" if by_step else "ssh"
        self.say({"node": self.node.to_json(), "way": way, **self._first})
        self.send()

    def _hear(self, now: float) -> None:
        self._heard = now
        if self.standing is HostState.SILENT:
            self.standing, self.reason = HostState.READY, "heard again"

    def _is_own(self, message: Any) -> bool:
        """Take in what is about the connection."""
        if not isinstance(message, dict):
            return False
        if "hello" in message:
            self._shake(message["hello"])
        elif "usable" in message:
            self._on_usable(message)
        elif "probe" in message:
            self.drew(0, str(message["probe"]))
        elif "unfit" in message:
            # In an agent's place: there is none, or there will be no more, and this is why.
            self._drop()
            trouble = Trouble(str(message["unfit"]), str(message["fix"]), bool(message["final"]))
            self._away(trouble)
        elif "beat" in message:
            self._tell_time(message)
        else:
            return False
        return True

    def _on_usable(self, message: Mapping[str, Any]) -> None:
        self.usable, self.reason = int(message["usable"]), str(message["reason"])
        if self.usable and self.drawing is None:
            self.drawing = self._attention.now
        if message["never"]:
            fix = "see that the kernel can be imported by the interpreter there"
            if module := missing_module(self.reason):
                fix = self.installing(module)
            self.refuse(f"no worker starts there: {self.reason}", fix)

    def _tell_time(self, beat: Mapping[str, Any]) -> None:
        """Half the round trip is what its clock cannot be off more by."""
        left, now = self._left.pop(beat["beat"], None), time.time()
        if left is None or "clock" not in beat:
            return
        within = (now - left) / 2
        if within >= 0 and (self.clock is None or within < self.clock.within):
            self.clock = ClockOffset(float(beat["clock"]) - (left + now) / 2, within)

    def _shake(self, hello: dict[str, Any]) -> None:
        self.hello = hello
        found = differences(self._here, hello)
        if found:
            fix = "install the same there as here, or leave the host out"
            what = ", ".join(each.what for each in found)
            self.refuse(f"it differs in {what}:\n{table(self.name, found)}", fix)

    def accept(self) -> None:
        """It has shaken hands, and may be given tasks."""
        self.standing, self._failures = HostState.READY, 0

    def _look(self, now: float) -> None:
        """At the clocks."""
        patience = self._patience
        if now - self._beaten >= patience.beat:
            self._beaten = now
            self._number += 1
            self._left[self._number] = time.time()
            self.say({"beat": self._number})
            self.send()
        quiet = now - self._heard
        if self.standing is HostState.STARTING and self.drawing is None:
            if now - self._since > patience.ready:
                words = (self._agent.words if self._agent else "") or self.reason
                self._lose(f"not ready within {patience.ready:g} s; {words}".rstrip("; "))
        elif quiet > patience.lost:
            self._lose(f"not heard of for {quiet:.0f} s")
        elif quiet > patience.silent and self.standing is HostState.READY:
            self.standing = HostState.SILENT
            self.reason = f"not heard of for {quiet:.0f} s"

    def _on_end(self) -> None:
        if self._agent is None:
            return
        started = self.standing is not HostState.STARTING
        how = self._agent.reap()
        self._agent = None
        self._away(
            Trouble(f"its agent ended: {how}", "", False)
            if started
            else trouble(self.node, how, __version__)
        )

    def _lose(self, reason: str) -> None:
        self._drop()
        self._away(Trouble(reason, "", False))

    def _drop(self) -> None:
        if self._agent is not None:
            self._agent.reap()
            self._agent = None
        self.usable = 0

    def _away(self, found: Trouble) -> None:
        self.usable = 0
        self.standing = HostState.REFUSED if found.final else HostState.AWAY
        self.reason, self.fix = found.reason, found.fix
        pause = backoff(self._failures, self._patience.first, self._patience.longest)
        self._failures += 1
        self._next_try = self._attention.now + pause


def first_words(work: Work, patience: Patience, *, tells: bool) -> dict[str, Any]:
    """What every agent of a run is told first, beside its node."""
    return {
        "work": work.to_json(),
        "tells": tells,
        "silence": patience.silence,
        "ready": patience.ready,
        "memory": 0,
    }
