"""The notifications of one start of a run or a sweep: nodes that were lost, and how it ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Self

from cluster.common.errors import ClusterError, Locked, UsageError
from cluster.dispatch.events import (
    Alarm,
    Event,
    NodeChanged,
    Observer,
    Progress,
    Started,
)
from cluster.lifecycle.notify.messages import of_error, of_loss, of_result
from cluster.lifecycle.notify.notifier import Notifier
from cluster.report.result import Result
from cluster.spec import Notify


class Notification:
    """An observer that sends the notifications that a spec wants, and passes every event on.

    Use it as a context around the time in which the run is locked: at its end, when the recipients
    can look at the run, it sends how the start ended, and waits for messages on their way.

    Args:
        run, name: the id and name of the run or the sweep.
        notify: the recipients, and the events they want.
        note: records what became of a message.
        observe: the next observer.
        result: called for the result when the start has ended.
    """

    def __init__(
        self,
        run: str,
        name: str,
        notify: Notify,
        note: Callable[[str], None],
        observe: Observer,
        result: Callable[[], Result],
    ) -> None:
        self._run, self._name, self._note = run, name, note
        self._notifier = Notifier(notify, note)
        self._observe, self._result = observe, result
        self._slots: dict[str, int] = {}
        self._lost: set[str] = set()
        self._begun = self._prepared = False
        self._wrong: str | None = None

    def __call__(self, event: Event) -> None:
        """Handle an event."""
        if isinstance(event, Started):
            self._on_start()
        elif isinstance(event, NodeChanged):
            self._on_node(event)
        elif isinstance(event, Progress):
            self._begun = True
            self._notifier.look()
        self._observe(event)

    def _on_start(self) -> None:
        """Report missing secrets now, while somebody may still be watching."""
        self._prepared = True
        wrong = self._notifier.prepare()
        if wrong and wrong != self._wrong:  # a sweep starts once for each of its backends
            self._wrong = wrong
            self._note(wrong)
            self._observe(Alarm(wrong))

    def _on_node(self, event: NodeChanged) -> None:
        lost = self._slots.get(event.node) and not event.slots
        self._slots[event.node] = event.slots
        # A node that comes and goes is reported once.
        if lost and event.node not in self._lost:
            self._lost.add(event.node)
            self._notifier.send(of_loss(self._run, self._name, event.node, event.reason))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ClusterError) and not isinstance(error, Locked | UsageError):
            if not self._prepared:  # the store failed before the run could begin
                self._on_start()
            self._notifier.send(of_error(self._run, self._name, error))
        elif error is None and self._begun:
            with suppress(ClusterError):  # the caller gets the same error
                self._notifier.send(of_result(self._result()))
        self._notifier.finish()
