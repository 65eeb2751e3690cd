"""What every rank of the user's own world does: draw tasks, in a worker process of its own.

The worker process is what a kernel may crash or hang; the rank, and with it the world, lives on.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections import deque
from dataclasses import replace
from typing import Any

from cluster.backends.mpi.world import DOWN, UP, Communicator
from cluster.hosts.fingerprint import fingerprint, is_lost, probe, probed
from cluster.hosts.nodes import local
from cluster.hosts.prints import PrintedLines
from cluster.hosts.process_tree import catch, die_with_parent
from cluster.hosts.scratch import hostname
from cluster.hosts.worker import leave_it
from cluster.hosts.worker_pool import Slots
from cluster.sampling.kernels import KernelSource
from cluster.sampling.task import Outcome, Task, Work

_BEAT = 1.0
# A coordinator that is stopped for a minute is waited for; one that is gone took its world along,
# as a rule, so this is for what no launcher sees.
_SILENT = 150.0
_ORPHANED = 75


class Hand:
    """One slot, which draws what the coordinator sends.

    Args:
        world: the world; this rank's messages are read from it, also where it is the coordinator.
        selector: watches the worker process.
    """

    def __init__(self, world: Communicator, selector: selectors.BaseSelector) -> None:
        self.ended = False
        self._world, self._selector = world, selector
        self._node = replace(local(), slots=1)
        self._slots: Slots | None = None
        self._run, self._works = 0, dict[str, Work]()
        self._waiting: deque[Task] = deque()
        self._probing, self._lost_probes, self._told = False, 0, (-1, "")
        self._heard = self._beaten = time.monotonic()
        self._say({"seat": hostname()})

    def serve(self) -> int:
        """Until the coordinator ends it; the whole life of a rank that is no coordinator."""
        die_with_parent()
        # What a launcher forwards is for the coordinator, which drains.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            catch(number, leave_it)
        while not self.ended:
            self.tend()
            self._world.flush()
            for key, mask in self._selector.select(self._world.patience):
                key.data(mask)
            if self._slots is not None and time.monotonic() - self._heard > _SILENT:
                self._rest()
                os._exit(_ORPHANED)  # the launcher ends what is left of the world
        return 0

    def tend(self) -> None:
        """Do what was said, and say what came of it."""
        for _, lines in self._world.arrived(DOWN):
            self._heard = time.monotonic()
            for message in map(json.loads, lines):
                self._on_message(message)
        if self._slots is not None:
            self._draw(self._slots)
        if time.monotonic() - self._beaten > _BEAT:
            self._beaten = time.monotonic()
            self._say({"beat": self._run})

    def _on_message(self, message: Any) -> None:
        if isinstance(message, list):
            self._waiting.append(Task(*message))
            return
        for word, value in message.items():
            getattr(self, f"_on_{word}")(value)

    def _on_beat(self, _number: int) -> None:
        """To be heard is what a beat is for."""

    def _on_work(self, wanted: dict[str, Any]) -> None:
        """A run begins."""
        self._rest()
        self._sources: dict[str, KernelSource] = {}
        work = Work.from_json(wanted["work"], self._sources)
        self._run, self._works = wanted["run"], {}
        self._probing, self._lost_probes, self._told = True, 0, (-1, "")
        ready, memory = float(wanted["ready"]), int(wanted["memory"])
        self._slots = Slots(self._node, work, self._selector, ready, memory)
        self._first = work
        self._say({"hello": fingerprint(work)})

    def _on_more(self, work: dict[str, Any]) -> None:
        known = Work.from_json(work, self._sources)
        self._works[known.run] = known

    def _on_revoke(self, ids: list[int]) -> None:
        for task in [task for task in self._waiting if task.id in ids]:
            self._waiting.remove(task)
            self._give_back(task, "not begun")
        if self._slots is not None:
            self._slots.revoke(ids)

    def _on_rest(self, _run: int) -> None:
        self._rest()

    def _on_end(self, _: object) -> None:
        """The world ends, in order."""
        self._rest()
        self._say({"bye": True})
        self.ended = True

    def _rest(self) -> None:
        """A run is over."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None
        self._waiting.clear()

    def _draw(self, slots: Slots) -> None:
        for outcome in slots.tend():
            if isinstance(outcome, PrintedLines):
                self._say({"printed": outcome})
            else:
                self._answer(outcome)
        if self._told != (told := (slots.usable, slots.reason)):
            self._told = told
            self._on_slot(slots)
        while self._waiting and slots.broken:
            self._give_back(self._waiting.popleft(), slots.reason)
        while self._waiting and slots.usable:
            task = self._waiting.popleft()
            slots.give(task, self._works.get(task.run))
        slots.send()

    def _on_slot(self, slots: Slots) -> None:
        if self._probing and slots.usable:
            few, task = probe(self._first)
            slots.give(task, few)
        self._say({"usable": slots.usable, "reason": slots.reason, "broken": slots.broken})

    def _give_back(self, task: Task, why: str) -> None:
        self._answer(Outcome.without_answer(task, "returned", why, None))

    def _answer(self, outcome: Outcome) -> None:
        if not self._probing or outcome.task != 0:
            self._say([self._run, *outcome])
        elif is_lost(outcome, self._lost_probes):
            self._lost_probes += 1
        else:
            self._probing = False
            self._say({"probe": probed(outcome)})

    def _say(self, message: object) -> None:
        if isinstance(message, dict):
            message["run"] = self._run
        self._world.queue(0, UP, message)
