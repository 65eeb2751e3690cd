"""The agent of a host: the process that the dispatcher starts there, by ssh, srun or directly.

It completes the handshake, answers heartbeats, manages the host's worker processes, and starts what
an engine needs there. When its input ends or no heartbeat arrives, it ends with all its
descendants, so no process survives the dispatcher for long, even on a host that was cut off. A
process started by other means becomes an agent by :func:`become_agent` and :func:`serve`, over any
channel.

The protocol is JSON lines, and the first line configures the agent; see :class:`Agent`. Engines'
processes on the host reach its workers through a socket, see :mod:`cluster.hosts.agent_client`.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cluster.hosts.agent_client import SOCKET
from cluster.hosts.child_process import Child
from cluster.hosts.fingerprint import fingerprint, is_lost, probe, probed
from cluster.hosts.jsonlines import Connection, Listener, SocketConnection, Speaker
from cluster.hosts.nodes import Node, usable_cores
from cluster.hosts.prints import PrintedLines
from cluster.hosts.process_tree import adopt, descendants, leave_signals
from cluster.hosts.scratch import boot, hostname, machine, private_folder, remove, sweep
from cluster.hosts.worker import take_descriptors
from cluster.hosts.worker_pool import FILES, Slots, slot_environment
from cluster.sampling.kernels import KernelSource
from cluster.sampling.task import Outcome, Task, Work

# Seconds of one wait of the main loop.
_TICK = 0.5
# Seconds for the first message to arrive.
_FIRST_WORD = 30.0
# Seconds for all descendants to die of SIGKILL.
_DYING = 5.0
# Seconds to keep a task whose run is not known here: its work may still be on the way.
_STRANGE = 10.0


def main() -> None:
    """Serve until the input ends. Started by the dispatcher, never by hand."""
    become_agent()
    with selectors.DefaultSelector() as selector:
        wire = Connection(*take_descriptors(), selector)
        first = _first_word(wire, selector)
        if first is not None:
            serve(first, wire, selector)


def become_agent() -> None:
    """Prepare this process to be an agent: signals, and the adoption of orphaned descendants."""
    leave_signals()
    # If the starting process ignored SIGCHLD, exit statuses of our children would be lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    adopt()


def serve(first: Mapping[str, Any], wire: Wire, selector: selectors.BaseSelector) -> None:
    """Run the agent of a host until the dispatcher ends it.

    Args:
        first: the dispatcher's first message, see :class:`Agent`.
        wire: the connection to the dispatcher.
        selector: watches everything.
    """
    agent = Agent(first, wire, selector)
    try:
        agent.serve()
    finally:
        agent.close()


def _first_word(wire: Connection, selector: selectors.BaseSelector) -> Mapping[str, Any] | None:
    """The first message; None if none arrives in time."""
    deadline = time.monotonic() + _FIRST_WORD
    while time.monotonic() < deadline and not wire.ended and not wire.wrong:
        _turn(selector)
        if wire.has_messages:
            first: Mapping[str, Any] = wire.next()
            return first
    return None


def _turn(selector: selectors.BaseSelector) -> None:
    for key, mask in selector.select(_TICK):
        key.data(mask)


class Wire(Speaker, Protocol):
    """An agent's connection to the dispatcher: a :class:`Connection`, or an MPI session."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will arrive."""

    @property
    def wrong(self) -> str:
        """Why what arrived is malformed; empty if it is not."""


class Agent:
    """One host of a run.

    Args:
        first: the dispatcher's first message:

            * ``node``, ``work``: as returned by their ``to_json``;
            * ``way``: how this process was started: ``here``, ``ssh``, ``srun`` or ``mpi``;
            * ``silence``: seconds without any message after which the agent ends;
            * ``ready``: seconds within which a worker must be ready;
            * ``memory``: bytes that a slot may use; 0: no limit;
            * ``tells``: whether to report which tasks the engine's processes here begin.
        wire: to the dispatcher. It then sends ``{"beat": n}``, ``{"tasks": [...]}``, ``{"work":
            {...}}``, ``{"revoke": [ids]}``, ``{"start": {id, command, env, input, talks}}``, and
            ``{"kill": id}``; and is sent ``{"hello": {...}}``, ``{"probe": text}``, ``{"beat":
            n, "clock": seconds}``, outcomes as lists, ``{"usable": n, "reason": text, "never": no
            worker will start}``, ``{"printed": list}``, ``{"began": id}``, ``{"started": id}``,
            ``{"said": id, "message": any}`` and ``{"exited": id, "status": n or null, "how":
            text}``.
        selector: watches everything.
    """

    def __init__(
        self, first: Mapping[str, Any], wire: Wire, selector: selectors.BaseSelector
    ) -> None:
        node = Node.from_json(first["node"])
        # The node's interpreter has started this process; workers are started by the same one.
        self._node = replace(node, slots=node.slots or usable_cores(), python=None)
        self._sources: dict[str, KernelSource] = {}
        self._work = Work.from_json(first["work"], self._sources)
        self._works: dict[str, Work] = {}
        self._first, self._wire, self._selector = first, wire, selector
        self._heard = time.monotonic()
        # What was last reported of the workers; -1: nothing so far.
        self._reported: dict[str, Any] = {"usable": -1}
        self._probing, self._lost_probes = True, 0
        # Tasks that no worker has yet, and the engine's process that waits for each of the others.
        self._waiting: deque[Waiting] = deque()
        self._askers: dict[int, SocketConnection] = {}
        self._commands: dict[int, Child] = {}
        # Every task revoked so far: an engine may still deliver one that it has queued.
        self._revoked: set[int] = set()
        self._folder: Path | None = None
        ready, memory = float(first["ready"]), int(first["memory"])
        # Twice the files: an engine may have a process per slot here, connected to this one.
        self._slots = Slots(self._node, self._work, selector, ready, memory, files=2 * FILES)
        self._service = Service(selector)
        self._handlers: Mapping[str, Callable[[Any], None]] = {
            "beat": self._on_beat,
            "work": self._on_work,
            "tasks": self._on_tasks,
            "revoke": self._on_revoke,
            "start": self._on_start,
            "kill": self._on_kill,
        }
        sweep()
        self._say({"hello": self._hello()})

    def serve(self) -> None:
        """Serve until the dispatcher is gone or silent for too long."""
        silence = float(self._first["silence"])
        while not self._wire.ended and not self._wire.wrong:
            for message in self._wire.messages():
                self._heard = time.monotonic()
                self._on_message(message)
            if time.monotonic() - self._heard > silence:
                return
            self._tend()
            self._wire.send()
            _turn(self._selector)

    def close(self) -> None:
        """End all descendants of this process, including orphans, which it has adopted."""
        self._slots.close()
        # Repeatedly: a descendant may fork while the list is read.
        deadline = time.monotonic() + _DYING
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            time.sleep(0.01)
        self._service.close()
        if self._folder is not None:
            remove(self._folder)

    # -- messages of the dispatcher ---------------------------------------------------------------

    def _on_message(self, message: Mapping[str, Any]) -> None:
        for word, value in message.items():
            self._handlers[word](value)

    def _on_beat(self, number: int) -> None:
        self._say({"beat": number, "clock": time.time()})

    def _on_work(self, work: Mapping[str, Any]) -> None:
        known = Work.from_json(work, self._sources)
        self._works[known.run] = known

    def _on_tasks(self, tasks: list[Any]) -> None:
        self._waiting += (Waiting(Task(*task), None, time.monotonic()) for task in tasks)

    def _on_revoke(self, ids: list[int]) -> None:
        # Remember them: the engine may deliver a task after its revocation, by its slower way.
        self._revoked.update(ids)
        for entry in [entry for entry in self._waiting if entry.task.id in ids]:
            self._waiting.remove(entry)
            self._give_back(entry.task, entry.client)
        self._slots.revoke(ids)

    def _on_start(self, wanted: Mapping[str, Any]) -> None:
        number = int(wanted["id"])
        try:
            command = Child(
                wanted["command"],
                self._selector,
                environment=self._environment(wanted["env"]),
                folder=self._node.cwd,
                talks=bool(wanted["talks"]),
                leashed=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            how = f"it could not be started: {error}"
            self._say({"exited": number, "status": None, "how": how})
            return
        self._commands[number] = command
        if wanted["input"] is not None:
            command.queue(wanted["input"])
            command.send()
        self._say({"started": number, "pid": command.pid})

    def _on_kill(self, number: int) -> None:
        if number in self._commands:
            self._commands[number].kill()

    # -- what happens here ------------------------------------------------------------------------

    def _tend(self) -> None:
        for outcome in self._slots.tend():
            if isinstance(outcome, PrintedLines):
                self._say({"printed": outcome})
            else:
                self._answer(outcome, self._askers.pop(outcome.task, None))
        self._report_usable()
        for message, client in self._service.tend():
            if isinstance(message, list):
                self._take(Task(*message), client)
            else:
                self._leave(client)
        self._give_what_waits()
        self._slots.send()
        # Before the outcomes, which may take an engine's own way: the dispatcher must have what a
        # task printed before its outcome.
        self._wire.send()
        self._service.send()
        for number, command in tuple(self._commands.items()):
            self._watch(number, command)

    def _take(self, task: Task, client: SocketConnection) -> None:
        """Accept a task of an engine's process, unless it was revoked."""
        if task.id in self._revoked:
            self._give_back(task, client)
            return
        self._waiting.append(Waiting(task, client, time.monotonic()))
        if self._first["tells"]:
            self._say({"began": task.id})

    def _leave(self, client: SocketConnection) -> None:
        """Send the remaining outcomes of a client that stops waiting to the dispatcher."""
        left = [number for number, asker in self._askers.items() if asker is client]
        for number in left:
            del self._askers[number]
        for at, entry in enumerate(self._waiting):
            if entry.client is client:
                self._waiting[at] = entry._replace(client=None)
                left.append(entry.task.id)
        client.queue({"left": left})

    def _give_back(
        self, task: Task, client: SocketConnection | None, why: str = "not begun"
    ) -> None:
        self._answer(Outcome.without_answer(task, "returned", why, None), client)

    def _give_what_waits(self) -> None:
        if self._slots.broken and not self._probing:
            for entry in self._waiting:
                self._give_back(entry.task, entry.client, self._slots.reason)
            self._waiting.clear()
        for _ in range(len(self._waiting) if self._slots.usable else 0):
            entry = self._waiting.popleft()
            if not entry.task.run or entry.task.run in self._works:
                self._give(entry.task, entry.client)
            elif time.monotonic() - entry.since < _STRANGE:
                # An engine may deliver the task before the dispatcher's message with the work.
                self._waiting.append(entry)
            else:
                why = f"its run {entry.task.run} is not known here"
                self._give_back(entry.task, entry.client, why)

    def _give(self, task: Task, client: SocketConnection | None) -> None:
        if client is not None:
            if client.gone:
                return  # the client has ended, so nobody waits for the task
            self._askers[task.id] = client
        self._slots.give(task, self._works.get(task.run))

    def _answer(self, outcome: Outcome, client: SocketConnection | None) -> None:
        """Send an outcome to the client that waits for it; if it has ended, to the dispatcher."""
        if self._probing and outcome.task == 0:
            self._end_probe(outcome)
        elif client is None or client.gone:
            self._say(outcome)
        else:
            client.queue(outcome)

    def _report_usable(self) -> None:
        told: dict[str, Any] = {
            "usable": self._slots.usable,
            "reason": self._slots.reason,
            "never": self._slots.broken,
        }
        if told == self._reported:
            return
        if self._probing and self._reported["usable"] <= 0 < told["usable"]:
            # The first worker is ready: it draws the probe before any task is given here.
            few, task = probe(self._work)
            self._works[few.run] = few
            self._slots.give(task, few)
        self._reported = told
        self._say(told)

    def _end_probe(self, outcome: Outcome) -> None:
        if is_lost(outcome, self._lost_probes):
            self._reported["usable"] = 0  # has the next worker that is ready draw it
            self._lost_probes += 1
            return
        self._probing = False
        self._say({"probe": probed(outcome)})

    def _watch(self, number: int, command: Child) -> None:
        for message in command.messages():
            self._say({"said": number, "message": message})
        if command.gone:
            del self._commands[number]
            how = command.reap()
            # Reaping reads the rest of its output.
            for message in command.messages():
                self._say({"said": number, "message": message})
            self._say({"exited": number, "status": command.status, "how": how})

    def _say(self, message: object) -> None:
        self._wire.queue(message)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment of an engine's process: the agent's socket, the node's name, a folder."""
        if self._folder is None:
            self._folder = private_folder()
        ours = {
            SOCKET: self._service.address,
            "CLUSTER_NODE": self._node.host,
            "CLUSTER_PYTHON": sys.executable,
            "CLUSTER_FOLDER": str(self._folder),
            "TMPDIR": str(self._folder),
        }
        return {**slot_environment(self._node), **ours, **more}

    def _hello(self) -> dict[str, Any]:
        dispatcher, address = _addresses(str(self._first["way"]), os.environ)
        return {
            **fingerprint(self._work),
            "pid": os.getpid(),
            "slots": self._node.slots,
            "cores": usable_cores(),
            "hostname": hostname(),
            "machine": machine(),
            "boot": boot(),
            "prefix": sys.prefix,
            "interpreter": sys.executable,
            "clock": time.time(),
            "service": self._service.address,
            "dispatcher": dispatcher,
            "address": address,
        }


# -- the socket for the engine's own processes on this host ---------------------------------------


class Waiting(NamedTuple):
    """A task that no worker has yet.

    Attributes:
        task: the task.
        client: the engine's process that brought it; None: the dispatcher sent it.
        since: when it came, in seconds of the monotonic clock.
    """

    task: Task
    client: SocketConnection | None
    since: float


class Service:
    """The socket by which the engine's processes on this host have tasks drawn.

    Args:
        selector: watches it and its connections.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._door = Listener(selector)
        self._clients: list[SocketConnection] = []

    @property
    def address(self) -> str:
        """The address for :class:`cluster.hosts.agent_client.Desk`."""
        return self._door.address

    def tend(self) -> Iterator[tuple[Any, SocketConnection]]:
        """The requests since the last call: a task's fields, or an object that leaves all tasks."""
        self._clients += self._door.callers()
        for client in tuple(self._clients):
            for message in client.messages():
                yield message, client
            if client.gone:
                self._clients.remove(client)
                client.close()

    def send(self) -> None:
        """Send the answers that were queued."""
        for client in self._clients:
            client.send()

    def close(self) -> None:
        """Accept no more connections, and close the existing ones."""
        self._door.close()
        for client in self._clients:
            client.close()
        self._clients.clear()


def _addresses(way: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The dispatcher's address as this host sees it, and this host's own on that route.

    Args:
        way: how this process was started. A login may have left ``SSH_CONNECTION`` in the
            environment of a process that was not started by ssh.
        environ: this process's environment.
    """
    if way == "ssh":
        there = environ.get("SSH_CONNECTION", "").split()
        if len(there) == 4:
            return there[0], there[2]
    dispatcher = environ.get("SLURM_LAUNCH_NODE_IPADDR", "")
    if way == "srun" and dispatcher:
        family = socket.AF_INET6 if ":" in dispatcher else socket.AF_INET
        # Nothing is sent: the kernel only chooses the interface.
        with socket.socket(family, socket.SOCK_DGRAM) as way_there:
            way_there.connect((dispatcher, 9))
            return dispatcher, str(way_there.getsockname()[0])
    return "127.0.0.1", "127.0.0.1"


if __name__ == "__main__":
    main()
