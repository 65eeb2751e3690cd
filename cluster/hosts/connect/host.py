"""One host of a run: it starts the host's agent, watches it, and starts another if it is lost."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol

from cluster.common.backoff import ListeningClock, backoff
from cluster.common.version import __version__
from cluster.hosts.child_process import Child
from cluster.hosts.connect import srun
from cluster.hosts.connect.lacking import installing
from cluster.hosts.connect.ssh import Trouble, agent_command, agent_environment, is_here, trouble
from cluster.hosts.fingerprint import differences, missing_module, probe, table
from cluster.hosts.jsonlines import Speaker
from cluster.hosts.nodes import Node
from cluster.hosts.worker_pool import python_command
from cluster.sampling.task import Work


@dataclass(frozen=True)
class Patience:
    """Intervals and timeouts, in seconds.

    Attributes:
        beat: between two heartbeats.
        silent: without a message until a host's slots no longer count, and its tasks are given to
            others.
        lost: without a message until the connection is given up.
        silence: without a message until the agent gives up from its side. Less than ``lost``, so
            that a run never has two agents on one host.
        first: the pause after the first failed attempt to reach a host; it doubles with each.
        longest: the limit of that pause.
        ready: for an attempt, until the handshake is complete.
        probe: for a probe of the kernel to come back.
        others: to wait for hosts that are not up yet, if those that are disagree about a probe.
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


class Channel(Speaker, Protocol):
    """The dispatcher's connection to an agent: a :class:`Child`, or an MPI session."""

    @property
    def gone(self) -> bool:
        """Whether it has ended; :meth:`reap` describes how."""

    @property
    def words(self) -> str:
        """The last lines of its output for people."""

    def close_input(self) -> None:
        """Close the agent's input, upon which it ends."""

    def wait(self, deadline: float) -> None:
        """Wait until it has ended, or until a deadline of the monotonic clock."""

    def reap(self) -> str:
        """Release it, by force if it has not ended; returns how it ended, for people."""


# The command that connects to the agent of a node.
Reach = Callable[[Node], Sequence[str]]
# Opens the channel to the agent of a node; the text tells the agent how it was started (``way``).
Dial = Callable[[Node, selectors.BaseSelector], tuple[str, Channel]]


def start_agent(
    node: Node, selector: selectors.BaseSelector, reach: Reach = agent_command
) -> tuple[str, Channel]:
    """Start an agent on a node: by a step of Slurm inside a job, otherwise by a command.

    Args:
        node: the host.
        selector: watches the channel.
        reach: gives the command for a node.

    Returns:
        How it was started (``here``, ``ssh`` or ``srun``), and the channel to it.

    Raises:
        OSError: the command could not be started.
    """
    by_step = srun.reaches(node)
    command = srun.agent_command(node) if by_step else reach(node)
    way = "here" if is_here(node) else "srun" if by_step else "ssh"
    return way, Child(command, selector, environment=agent_environment(node))


class ClockOffset(NamedTuple):
    """How far a host's clock is ahead of ours, and the error of that estimate, in seconds."""

    ahead: float
    within: float


class HostState(Enum):
    """The state of a host.

    SILENT: its agent was up, and sends nothing. AWAY: it is not reached, and will be tried again.
    REFUSED: it is not used any more.
    """

    STARTING = "starting"
    READY = "ready"
    SILENT = "silent"
    AWAY = "away"
    REFUSED = "refused"


class Host:
    """The dispatcher's view of a host.

    Args:
        node: how to reach it.
        first: an agent's first message, without the node and the way.
        here: the dispatcher's own fingerprint.
        selector: watches the connection.
        patience: timeouts.
        dial: opens the channel to its agent.

    Attributes:
        node: how to reach it.
        standing: its state; only a READY host may be given tasks.
        reason: why it is in that state, for people.
        fix: what the user can do about it; empty: nothing in particular.
        hello: the agent's description of itself and the host; empty before the handshake.
        probes: the results of probes so far, by the kernels' numbers; second draws have the
            numbers after those of all kernels.
        asked: it was asked for the probes of all kernels.
        lost_probes: how often a probe was repeated because its worker died.
        twice: the number of the probe that it was asked to draw a second time; None: of none.
        remark: a message about it for people that is shown once, with its reason.
        is_own: it draws on the dispatcher's machine in any case (rank 0 of a user's MPI world), so
            its probe is no second opinion.
        drawing: since when its next probe is awaited, on the listening clock; None: no worker is
            ready to draw it.
        clock: its clock compared with ours, from the fastest heartbeat; None: no heartbeat so far.
        usable: worker processes that are ready there.
        broken: no worker will ever be ready there again.
        born: the number of agents so far, which identifies the present one.
    """

    def __init__(
        self,
        node: Node,
        first: Mapping[str, Any],
        here: Mapping[str, str],
        selector: selectors.BaseSelector,
        patience: Patience,
        dial: Dial = start_agent,
    ) -> None:
        self.node, self.standing = node, HostState.AWAY
        self.reason, self.fix = "not reached yet", ""
        self.hello: dict[str, Any] = {}
        self.probes: dict[int, str] = {}
        self.asked, self.lost_probes, self.remark, self.is_own = False, 0, "", False
        self.drawing: float | None = None
        self.twice: int | None = None
        self.clock: ClockOffset | None = None
        # When each heartbeat was sent that has not come back.
        self._left: dict[int, float] = {}
        self.usable = self.born = 0
        self.broken = False
        self._first, self._here = first, here
        self._selector, self._patience, self._dial = selector, patience, dial
        self._agent: Channel | None = None
        self._commands = self._number = 0
        # What the present agent has been sent: the works of these runs, the texts of these kernels.
        self._known_runs: set[str] = set()
        self._known_kernels: set[str] = set()
        self._failures, self._next_try = 0, 0.0
        self._attention = ListeningClock()
        self._since = self._heard = self._beaten = 0.0

    @property
    def name(self) -> str:
        """Its name, unique in the run."""
        return self.node.name

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
        """Whether there is no agent, or one that has ended."""
        return self._agent is None or self._agent.gone

    @property
    def overdue(self) -> bool:
        """Whether a probe has not come back in time."""
        late = self._attention.now - self._patience.probe
        return self.drawing is not None and self.drawing < late

    # -- messages to the agent --------------------------------------------------------------------

    def say(self, message: Mapping[str, Any]) -> None:
        """Queue a message for its agent; :meth:`send` sends it. Without an agent, it is dropped."""
        if self._agent is not None:
            self._agent.queue(message)

    def send(self) -> None:
        """Send the queued messages."""
        if self._agent is not None:
            self._agent.send()

    def introduce(self, work: Work | None) -> None:
        """Send the work of a further run, once, before that run's first task."""
        if work is not None and work.run not in self._known_runs:
            self._known_runs.add(work.run)
            self.say({"work": work.to_json(self._known_kernels)})

    def ask(self, number: int, work: Work, *, anew: bool = False) -> None:
        """Have it draw a further probe; the outcome comes back like that of a task.

        Args:
            number: of the probe.
            work: of the kernel.
            anew: it repeats a lost probe, and gets no additional time.
        """
        self.drawing = self.drawing if anew else self._attention.now
        few, task = probe(work, number)
        self.introduce(few)
        self.say({"tasks": [task]})

    def drew(self, number: int, probe: str) -> None:
        """Record the result of a probe; the time of the next one starts now."""
        self.probes[number], self.drawing = probe, self._attention.now

    def start(
        self,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        first: object = None,
        *,
        talks: bool = True,
    ) -> int:
        """Have its agent start a command for an engine.

        Args:
            command: arguments; an argument ``{python}`` is replaced by the agent's interpreter.
            environment: variables in addition to those that the agent gives every command.
            first: a message for the command's standard input, which may contain secrets.
            talks: whether the command prints JSON lines, each of which the agent passes on.

        Returns:
            The number by which the agent's reports identify the command.
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
        """Have its agent start ``main`` of a module of this package.

        Args:
            module: its name.
            first: a message for its standard input, which may contain secrets.

        Returns:
            The number by which the agent's reports identify the command.
        """
        there = ["{python}", "-P", "-m", module]
        return self.start(
            python_command("{python}", module) if is_here(self.node) else there, first=first
        )

    def kill(self, command: int) -> None:
        """Have its agent kill a command that it started."""
        self.say({"kill": command})

    def installing(self, module: str) -> str:
        """The command line that installs a module on this host."""
        return installing(module, self.node, self.hello.get("interpreter"))

    def refuse(self, reason: str, fix: str = "") -> None:
        """Stop its agent, and never use the host again.

        Args:
            reason: why, for people.
            fix: what the user can do about it.
        """
        self._drop()
        self.standing, self.reason, self.fix = HostState.REFUSED, reason, fix

    # -- messages of the agent --------------------------------------------------------------------

    def tend(self) -> Iterator[Any]:
        """Do the periodic work; yield the agent's messages that are not about the connection."""
        now = self._attention.look()
        if self._agent is None:
            if self.standing is not HostState.REFUSED and now >= self._next_try:
                self._launch(now)
            return
        for message in self._agent.messages():
            self._mark_heard(now)
            if not self._is_own(message):
                yield message
            if self._agent is None:
                return  # the message has led to the host's refusal
        if self._agent.gone:
            self._on_end()
        else:
            self._check_timeouts(now)

    def close(self) -> None:
        """Close its agent's input, upon which the agent ends; do not wait for that."""
        if self._agent is not None:
            self._agent.close_input()

    def end(self, deadline: float) -> None:
        """Wait until its agent has ended, or until a deadline; then close the connection by force.

        An agent that is silent is not waited for: it cannot answer now, and ends by itself later.
        """
        if self._agent is not None:
            # Two heartbeats: a single one may be late.
            if self._attention.look() - self._heard < 2 * self._patience.beat:
                self._agent.wait(deadline)
            self._drop()

    def _launch(self, now: float) -> None:
        # Nothing that an earlier agent reported is true of the next one.
        self.standing, self.hello, self.probes = HostState.STARTING, {}, {}
        self.usable, self.broken, self._number = 0, False, 0
        self._known_runs, self._known_kernels = set(), set()
        self.clock, self._left, self.asked, self.lost_probes = None, {}, False, 0
        self.drawing = self.twice = None
        self.born += 1
        self._since = self._heard = self._beaten = now
        try:
            way, self._agent = self._dial(self.node, self._selector)
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            self._away(Trouble(f"{error.strerror}{place}", "", is_here(self.node)))
            return
        self.say({"node": self.node.to_json(), "way": way, **self._first})
        self.send()

    def _mark_heard(self, now: float) -> None:
        self._heard = now
        if self.standing is HostState.SILENT:
            self.standing, self.reason = HostState.READY, "heard again"

    def _is_own(self, message: Any) -> bool:
        """Process a message about the connection itself; False if it is about something else."""
        if not isinstance(message, dict):
            return False
        if "hello" in message:
            self._on_hello(message["hello"])
        elif "usable" in message:
            self._on_usable(message)
        elif "probe" in message:
            self.drew(0, str(message["probe"]))
        elif "unfit" in message:
            # Sent in the agent's place, by the process that should have connected to it.
            self._drop()
            trouble = Trouble(str(message["unfit"]), str(message["fix"]), bool(message["final"]))
            self._away(trouble)
        elif "beat" in message:
            self._on_beat(message)
        else:
            return False
        return True

    def _on_usable(self, message: Mapping[str, Any]) -> None:
        self.usable, self.reason = int(message["usable"]), str(message["reason"])
        if self.usable and self.drawing is None:
            self.drawing = self._attention.now
        self.broken = bool(message["never"])
        if self.broken and 0 not in self.probes:
            fix = "see that the kernel can be imported by the interpreter there"
            if module := missing_module(self.reason):
                fix = self.installing(module)
            self.refuse(f"no worker starts there: {self.reason}", fix)

    def _on_beat(self, beat: Mapping[str, Any]) -> None:
        """Estimate the host's clock from a heartbeat; the error is at most half the round trip."""
        left, now = self._left.pop(beat["beat"], None), time.time()
        if left is None or "clock" not in beat:
            return
        within = (now - left) / 2
        if within >= 0 and (self.clock is None or within < self.clock.within):
            self.clock = ClockOffset(float(beat["clock"]) - (left + now) / 2, within)

    def _on_hello(self, hello: dict[str, Any]) -> None:
        self.hello = hello
        found = differences(self._here, hello)
        if found:
            fix = "install the same there as here, or leave the host out"
            what = ", ".join(each.what for each in found)
            self.refuse(f"it differs in {what}:\n{table(self.node.host, found)}", fix)

    def accept(self) -> None:
        """Declare it ready for tasks: handshake and probes are as they should be."""
        self.standing, self._failures = HostState.READY, 0

    def _check_timeouts(self, now: float) -> None:
        """Send the heartbeat when it is due, and check the timeouts."""
        patience = self._patience
        if now - self._beaten >= patience.beat:
            self._beaten = now
            self._number += 1
            self._left[self._number] = time.time()
            self.say({"beat": self._number})
            self.send()
        quiet = now - self._heard
        if self.standing is HostState.STARTING and self.drawing is None:
            # While a probe is drawn, its own deadline applies (the judge refuses an overdue host).
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
    """The part of the first message that is the same for all agents of a run.

    Args:
        work: the run's first work.
        patience: timeouts.
        tells: whether agents report which tasks an engine's processes begin.
    """
    return {
        "work": work.to_json(),
        "tells": tells,
        "silence": patience.silence,
        "ready": patience.ready,
        "memory": 0,
    }
