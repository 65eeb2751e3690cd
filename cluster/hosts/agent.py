"""The agent of a host: what the dispatcher starts there, over ssh or beside itself, and talks to.

It shakes hands, answers the heartbeat, keeps the host's worker processes, and starts what an
engine needs there. It ends, with all that came of it, when its input ends or no beat comes: so no
process outlives the dispatcher by long, on a host that was cut off either. A process that somebody
else has started becomes an agent by :func:`become_agent` and :func:`serve`, over any channel.

The protocol is JSON lines, the first one of which says everything; see :class:`Agent`. Engines'
own processes on the host reach its workers by a socket, see :mod:`cluster.hosts.agent_client`.
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

_TICK = 0.5
_FIRST_WORD = 30.0
_DYING = 5.0
# A task of a run that was not told of is kept so long for that word.
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
    """Leave signals to the dispatcher, and be the parent of all that comes of this process."""
    leave_signals()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who started us may have ignored it
    adopt()


def serve(first: Mapping[str, Any], wire: Wire, selector: selectors.BaseSelector) -> None:
    """Be the agent of a host until the dispatcher ends that; see :class:`Agent`."""
    agent = Agent(first, wire, selector)
    try:
        agent.serve()
    finally:
        agent.close()


def _first_word(wire: Connection, selector: selectors.BaseSelector) -> Mapping[str, Any] | None:
    """The first message; None where none comes in time."""
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
    """The dispatcher, as an agent has it: a :class:`Connection`, or what another channel has."""

    @property
    def ended(self) -> bool:
        """No more will come."""

    @property
    def wrong(self) -> str:
        """Why what came is no message, or empty."""


class Agent:
    """One host of a run.

    Args:
        first: the dispatcher's first message:

            * ``node``, ``work``: as their ``to_json`` gives them;
            * ``way``: how this process was started: ``here``, by ``ssh`` or by ``srun``;
            * ``silence``: seconds without any word after which to end;
            * ``ready``: seconds within which a worker must be ready;
            * ``memory``: bytes that a slot may use; 0: no limit;
            * ``tells``: whether to say which tasks the engine's processes here begin.
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
        # The workers run where this process does, by the interpreter that runs it.
        self._node = replace(node, slots=node.slots or usable_cores(), python=None)
        self._sources: dict[str, KernelSource] = {}
        self._work = Work.from_json(first["work"], self._sources)
        self._works: dict[str, Work] = {}
        self._first, self._wire, self._selector = first, wire, selector
        self._heard = time.monotonic()
        self._told: dict[str, Any] = {"usable": -1}
        self._probing, self._lost_probes = True, 0
        self._waiting: deque[Waiting] = deque()
        self._askers: dict[int, SocketConnection] = {}
        self._commands: dict[int, Child] = {}
        self._revoked: set[int] = set()
        self._folder: Path | None = None
        ready, memory = float(first["ready"]), int(first["memory"])
        # An engine may have a process of its own here for each slot, which then asks for tasks.
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
        """Until the dispatcher is gone, or was not heard of for too long."""
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
        """End everything that came of this process, whoever its parent is by now."""
        self._slots.close()
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

    # -- what the dispatcher says -----------------------------------------------------------------

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
        # An engine may bring one that it has queued later than we hear of its end.
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
        self._tell_usable()
        for message, client in self._service.tend():
            if isinstance(message, list):
                self._take(Task(*message), client)
            else:
                self._leave(client)
        self._give_what_waits()
        self._slots.send()
        # What was printed is to be there before the outcome, which takes an engine's own way.
        self._wire.send()
        self._service.send()
        for number, command in tuple(self._commands.items()):
            self._watch(number, command)

    def _take(self, task: Task, client: SocketConnection) -> None:
        """An engine's process has brought a task."""
        if task.id in self._revoked:
            self._give_back(task, client)
            return
        self._waiting.append(Waiting(task, client, time.monotonic()))
        if self._first["tells"]:
            self._say({"began": task.id})

    def _leave(self, client: SocketConnection) -> None:
        """Whoever asked will not wait: the dispatcher is told the rest, when it comes."""
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
                # An engine's own way here can be faster than the word of which run it is.
                self._waiting.append(entry)
            else:
                why = f"its run {entry.task.run} is not known here"
                self._give_back(entry.task, entry.client, why)

    def _give(self, task: Task, client: SocketConnection | None) -> None:
        if client is not None:
            if client.gone:
                return  # whoever asked for it has ended, and nothing was begun
            self._askers[task.id] = client
        self._slots.give(task, self._works.get(task.run))

    def _answer(self, outcome: Outcome, client: SocketConnection | None) -> None:
        """To whom it may concern; the dispatcher also gets what the engine's process lost."""
        if self._probing and outcome.task == 0:
            self._end_probe(outcome)
        elif client is None or client.gone:
            self._say(outcome)
        else:
            client.queue(outcome)

    def _tell_usable(self) -> None:
        told: dict[str, Any] = {
            "usable": self._slots.usable,
            "reason": self._slots.reason,
            "never": self._slots.broken,
        }
        if told == self._told:
            return
        if self._probing and self._told["usable"] <= 0 < told["usable"]:
            few, task = probe(self._work)
            self._works[few.run] = few
            self._slots.give(task, few)
        self._told = told
        self._say(told)

    def _end_probe(self, outcome: Outcome) -> None:
        if is_lost(outcome, self._lost_probes):
            self._told["usable"] = 0  # the next worker is asked
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
            for message in command.messages():
                self._say({"said": number, "message": message})
            self._say({"exited": number, "status": command.status, "how": how})

    def _say(self, message: object) -> None:
        self._wire.queue(message)

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What an engine's process finds: the workers, the node's name, a folder of its own."""
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


# -- the workers, for the engine's own processes on this host -------------------------------------


class Waiting(NamedTuple):
    """A task that no worker has yet, who asked for it (None: the dispatcher), and since when."""

    task: Task
    client: SocketConnection | None
    since: float


class Service:
    """The door through which the engine's processes on this host ask for tasks to be drawn."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._door = Listener(selector)
        self._clients: list[SocketConnection] = []

    @property
    def address(self) -> str:
        """For :class:`Desk`."""
        return self._door.address

    def tend(self) -> Iterator[tuple[Any, SocketConnection]]:
        """What was asked for since the last call: a task's fields, or an object to leave them."""
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
        """Let nobody in any more, and hear nobody."""
        self._door.close()
        for client in self._clients:
            client.close()
        self._clients.clear()


def _addresses(way: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """The address at which this host sees the dispatcher, and its own on the way there.

    The way must be known: what an earlier login left in the environment is not about this process.
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
