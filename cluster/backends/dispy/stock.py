"""In an agent's place, for a stock dispynode: a process here that talks to it by dispy alone.

To the dispatcher it is the agent of that host: it shakes hands by a first job, answers the
heartbeat as long as the node answers, and has tasks drawn by jobs. Nothing is encrypted, and the
node runs whatever it is sent: this is for networks that are trusted.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from cluster.backends.base import Options
from cluster.backends.dispy.client import Client, Event
from cluster.backends.dispy.driver import DispyDriver
from cluster.backends.dispy.probe import Place, Unreachable
from cluster.backends.dispy.shim import VERSION
from cluster.common.errors import EngineError, UsageError
from cluster.common.secret import Secret
from cluster.hosts.fingerprint import is_lost, probe, probed
from cluster.hosts.jsonlines import Connection
from cluster.hosts.nodes import Node
from cluster.hosts.process_tree import die_with_parent
from cluster.hosts.worker import take_descriptors
from cluster.hosts.worker_pool import python_command
from cluster.sampling.kernels import KernelSource
from cluster.sampling.task import Outcome, Task, Work

RISK = (
    "network: trusted: a stock dispynode runs whatever the network sends it, unencrypted; "
    "anybody who reaches its port can use it"
)
_TICK = 0.5
_ASK = 1.0
# So long after its last word a node still counts as there; the heartbeat stops after it.
_PATIENCE = 4.0
_TAKEN = 8.0
# A job answers by itself when a block has had its time; one that does not for so long never will.
_GRACE = 10.0
# Further probes have numbers below 0, which are not as far off.
_HELLO, _PROBE = -(1 << 40), 0


class Unfit(Exception):
    """The node cannot be used: why, what to do, and whether trying again is no use."""


def stock_command(host: str, port: int, place: Secret | None, options: Options) -> list[str]:
    """The arguments that start this process; the secret itself is not among them.

    Args:
        host: the node's.
        port: where it listens.
        place: where its secret is; None: it has none.
        options: the limits of a block.
    """
    env, file = (place.env or "", place.file or "") if place else ("", "")
    limits = (str(options.timeout), str(options.memory))
    return python_command(sys.executable, __name__, host, str(port), env, file, *limits)


def main() -> None:
    """Serve until the input ends. Started by the dispatcher, never by hand."""
    die_with_parent()
    with selectors.DefaultSelector() as selector:
        wire = Connection(*take_descriptors(), selector)
        try:
            _serve(wire, selector)
        except UsageError as error:
            _give_up(wire, error.message, error.fix or "", True)
        except EngineError as error:
            _give_up(wire, error.message, error.fix or "", False)
        except Unfit as error:
            _give_up(wire, *error.args)
    # dispy's threads and exit handlers wait without end.
    os._exit(0)


def _give_up(wire: Connection, reason: str, fix: str, final: bool) -> None:
    wire.queue({"unfit": reason, "fix": fix, "final": final})
    wire.send()


def _serve(wire: Connection, selector: selectors.BaseSelector) -> None:
    host, port, env, file, limit, memory = sys.argv[1:]
    secret = Secret(env or None, file or None).read() if env or file else ""
    limits = {"limit": float(limit), "memory": int(memory)}
    stock = Stock(wire, _place(host, int(port), secret), secret, limits)
    selector.register(stock.wake, selectors.EVENT_READ, lambda _mask: None)
    try:
        while not wire.ended and not wire.wrong:
            for message in wire.messages():
                stock.hear(message)
            stock.tend()
            stock.look()
            wire.send()
            for key, mask in selector.select(_TICK):
                key.data(mask)
    finally:
        stock.part()


def _place(host: str, port: int, secret: str) -> Place:
    """Where the node is, once it has answered."""
    try:
        place = Place(socket.gethostbyname(host), port, None, secret)
    except OSError:
        raise Unfit("its name does not resolve", "correct the name", True) from None
    try:
        place.info()
    except Unreachable as error:
        raise Unfit(error.message, f"start dispynode.py -p {port - 1} there", False) from None
    except EngineError as error:
        fix = (
            "name in dispy.secret the one that it was started with (dispynode.py -s); a node of "
            "ours (cluster node) is met without network: trusted"
        )
        raise Unfit(error.message, fix, True) from None
    return place


class Stock(DispyDriver):
    """A stock node as an agent and as its dispatcher: see the module.

    Args:
        wire: to the dispatcher.
        place: where the node is.
        token: dispy's secret.
        limits: ``limit``, seconds for one block; ``memory``, bytes for a job, 0: any.
    """

    def __init__(
        self, wire: Connection, place: Place, token: str, limits: Mapping[str, float]
    ) -> None:
        super().__init__(Client(None, token, alone=True), None, token)
        self._wire = wire
        self._place, self._limits = place, dict(limits)
        self._node: Node | None = None
        self._works: dict[str, Work] = {}
        self._sources: dict[str, KernelSource] = {}
        self._tasks: dict[int, Task] = {}
        self._sent: dict[int, float] = {}
        self._revoked: set[int] = set()
        self._hung: dict[int, Outcome] = {}
        self._begun = self._answered = time.monotonic()
        self._taken = self._met = False
        self._lost_probes = 0
        threading.Thread(target=self._ask, daemon=True).start()

    # -- what the dispatcher says -----------------------------------------------------------------

    def hear(self, message: Mapping[str, Any]) -> None:
        """One message, as an agent gets them."""
        if "node" in message:
            self._begin(message)
        elif "work" in message:
            work = Work.from_json(message["work"], self._sources)
            self._works[work.run] = work
        for number in message.get("revoke", ()):
            self._on_revoke(number)
        for task in message.get("tasks", ()):
            self.send(task, self._name)
        if "beat" in message and time.monotonic() - self._answered < _PATIENCE:
            self._wire.queue(message)

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """A task is to be sent to the node."""
        self._tasks[task[0]] = Task(*task)
        super().send(task, name)

    def _begin(self, first: Mapping[str, Any]) -> None:
        self._node = Node.from_json(first["node"])
        work = Work.from_json(first["work"], self._sources)
        self._works = {"": work, work.run: work}
        self._name = self._node.host
        said = self._place.info()
        cpus, self._last = int(said["cpus"]), said["scheduler_ip"]
        self._slots = min(self._node.slots or cpus, cpus)
        self.join(
            {
                "name": self._name,
                "address": self._place.address,
                "port": self._place.port,
                "jobs": self._slots,
                "here": _own_address(self._place),
            }
        )

    def _on_revoke(self, number: int) -> None:
        """What was not sent is given back; a job that runs ends by itself, by its limit at last."""
        seat = self._named(self._name)
        waiting = [task for task in seat.waiting if task[0] == number] if seat else []
        if seat and waiting:
            seat.waiting.remove(waiting[0])
            self._end_without(number, "returned", "not begun")
        elif number in self._hung:
            self._end(self._hung.pop(number))
        elif number in self._tasks:
            self._revoked.add(number)

    # -- what the node says -----------------------------------------------------------------------

    def look(self) -> None:
        """At the clock.

        Raises:
            Unfit: the node has not taken us, or has lost a job.
        """
        now = time.monotonic()
        if self._node is None:
            return
        if not self._taken and now - self._begun > _TAKEN:
            # It turns others away without a word, and names whom it took last, also after that.
            words = (
                "it answers and does not take us: it is held by another client (the last that it "
                f"took came from {self._last or 'nowhere'}), or its dispy is not {VERSION}"
            )
            fix = f"wait for that client, or start it anew; there, pip install dispy=={VERSION}"
            raise Unfit(words, fix, False)
        seat = self._named(self._name)
        self._sent = {number: self._sent.get(number, now) for number in (seat.out if seat else ())}
        for number, since in self._sent.items():
            self._judge(number, now - since)

    def _judge(self, number: int, seconds: float) -> None:
        task = self._tasks.get(number)
        if task is not None and seconds > (task.stop - task.first) * self._limits["limit"] + _GRACE:
            words = f"given up: a job of it had no answer for {seconds:.0f} s"
            raise Unfit(words, "start its dispynode anew: this one has lost a slot", True)

    def part(self) -> None:
        """Have the node let go of us."""
        if self._client.begun:
            with suppress(EngineError):
                self._place.release(self._client.held(self._place.address))

    def _on_answer(self, event: Event) -> None:
        self._settle(event)
        found = json.loads(event.text)
        if "unfit" in found:
            raise Unfit(found["unfit"], "install the same cluster for the Python there", True)
        if "hello" in found:
            self._shake(found["hello"])
            return
        outcome = Outcome.from_json(found["outcome"])
        if outcome.task == _PROBE:
            self._end_probe(outcome)
        elif _is_hung(outcome) and outcome.task not in self._revoked:
            # Whether a block has had its time, the dispatcher says, whose clock is a little slower.
            self._hung[outcome.task] = outcome
        else:
            self._end(outcome)

    def _shake(self, hello: dict[str, Any]) -> None:
        del self._tasks[_HELLO]
        here = _own_address(self._place)
        places = {"slots": self._slots, "dispatcher": here, "address": self._place.address}
        self._wire.queue({"hello": {**hello, **places}})
        self._tell_usable(self._slots, "ready")
        self._draw_probe()

    def _draw_probe(self) -> None:
        few, task = probe(self._works[""])
        self._works[few.run] = few
        self.send(list(task), self._name)

    def _end_probe(self, outcome: Outcome) -> None:
        if is_lost(outcome, self._lost_probes):
            self._lost_probes += 1
            self._draw_probe()
            return
        self._met = True
        self._wire.queue({"probe": probed(outcome)})

    def _on_lost(self, event: Event) -> None:
        """A job that its node ended without an answer was an attempt; others were not begun."""
        if self._settle(event):
            kind = "lost" if event.address else "returned"
            self._end_without(int(event.name), kind, event.text)

    def _say(self, message: Any) -> None:
        """What a driver would tell, in an agent's words."""
        if "up" in message and not self._met:
            self._taken = True
            self.send([_HELLO, 0, 1, 1, 0.0], self._name)
        elif "up" in message:
            self._tell_usable(self._slots, "ready")
        elif "down" in message:
            self._tell_usable(0, message["reason"])
        elif "lost" in message:
            self._end_without(message["lost"], "returned", message["reason"])

    def _end_without(self, number: int, kind: str, reason: str) -> None:
        task = self._tasks.get(number)
        if task is None:
            return
        if number <= _PROBE:
            raise Unfit(f"its first job had no answer: {reason}", "start it anew", False)
        self._end(Outcome.without_answer(task, kind, reason, None))

    def _end(self, outcome: Outcome) -> None:
        self._tasks.pop(outcome.task, None)
        self._revoked.discard(outcome.task)
        self._wire.queue(outcome._replace(node=self._name))

    def _tell_usable(self, slots: int, reason: str) -> None:
        self._wire.queue({"usable": slots, "reason": reason, "never": False})

    def _text(self, task: Sequence[Any]) -> str:
        work = self._works[Task(*task).run]
        asked = None if task[0] == _HELLO else task
        env = dict(self._node.env) if self._node else {}
        told = {"task": asked, "work": work.to_json(), "env": env, **self._limits}
        return json.dumps(told)

    def _ask(self) -> None:
        """In a thread: whether it still answers."""
        while True:
            time.sleep(_ASK)
            with suppress(EngineError):
                self._place.info()
                self._answered = time.monotonic()


def _is_hung(outcome: Outcome) -> bool:
    return outcome.fault is not None and outcome.fault.kind == "timeout"


def _own_address(place: Place) -> str:
    """Ours, as the node sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        probe_socket.connect((place.address, place.port))
        address: str = probe_socket.getsockname()[0]
        return address


if __name__ == "__main__":
    main()
