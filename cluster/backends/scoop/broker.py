"""SCOOP's own broker in a thread, behind a gate that drops all but well-formed messages."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from scoop.broker import brokerzmq

from cluster.backends.kit import curve
from cluster.backends.kit.calls import url
from cluster.backends.kit.mailbox import Mailbox
from cluster.backends.scoop.shim import BEAT, DEAD

# Milliseconds of a poll; afterwards the gate shows that the broker's thread is alive.
_TICK = 100
# The number of frames of each kind of message that our workers and the origin send.
_FRAMES = {
    brokerzmq.TASK: 4,
    brokerzmq.REQUEST: 2,
    brokerzmq.STATUS_DONE: 3,
    brokerzmq.REPLY: 4,
    brokerzmq.INIT: 3,
}


class BrokerGate:
    """Takes the place of the broker's task socket.

    Messages that are malformed, or of a kind that our workers do not send, are dropped. A worker
    gets tasks only once it was admitted. A task that cannot be delivered goes to another worker;
    in SCOOP itself, a dead idle worker ends the broker's thread (``Host unreachable``).

    Args:
        broker: SCOOP's; its task socket must not be in use yet.

    Attributes:
        orders: pairs of a word and a value, carried out in the broker's thread, because ZeroMQ's
            sockets belong to one thread: ``listen`` at an address; ``admit``, ``bar`` or ``forget``
            a worker.
        news: triples: ``("sent", pickled id of a future, worker)``, ``("listens", address,
            ports)``, ``("deaf", address, reason)``, and ``("barred", worker, b"")``, which follows
            the news of every task that the worker was sent.
        turned: when the broker's thread last polled, in seconds of the monotonic clock.
    """

    def __init__(self, broker: Any) -> None:
        self._broker, self._socket = broker, broker.task_socket
        # The pickled id of each future that waits for a worker, by the task's own pickle.
        self._ids: dict[bytes, bytes] = {}
        self._admitted: set[bytes] = set()
        # Workers that asked for a task before they were admitted (SCOOP's ask only once), and
        # their requests that are now due.
        self._early: set[bytes] = set()
        self._due: deque[list[bytes]] = deque()
        self._message: list[bytes] = []
        self.orders: Mailbox[tuple[str, Any]] = Mailbox()
        self.news: Mailbox[tuple[str, Any, Any]] = Mailbox()
        self._handlers: dict[str, Callable[[Any], None]] = {
            "listen": self._listen,
            "admit": self._admit,
            "bar": self._bar,
            "forget": self._forget,
        }
        self.turned = time.monotonic()
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self.orders.bell, zmq.POLLIN)

    def poll(self, _timeout: int) -> bool:
        """Wait until there is a valid message; orders are carried out meanwhile."""
        while True:
            self.turned = time.monotonic()
            if self._due:
                self._message = self._due.popleft()
                return True
            ready = dict(self._poller.poll(_TICK))
            if self.orders.bell in ready:
                for word, what in self.orders.take():
                    self._handlers[word](what)
            elif self._socket in ready and self._take():
                return True

    def recv_multipart(self) -> list[bytes]:
        """The message that ended the last :meth:`poll`."""
        return self._message

    def send_multipart(self, frames: Sequence[bytes]) -> None:
        """Send a message; a task whose worker is dead goes to another worker.

        Args:
            frames: the worker's name, the kind of message, and its contents.
        """
        try:
            self._socket.send_multipart(frames)
        except zmq.ZMQError:
            if frames[1] == brokerzmq.TASK:
                self._again(frames[2])
            return
        if frames[1] == brokerzmq.TASK:
            self.news.put(("sent", self._ids.pop(frames[2], b""), frames[0]))

    def _take(self) -> bool:
        message = self._socket.recv_multipart()
        if len(message) < 2 or len(message) != _FRAMES.get(message[1], 0):
            return False
        if message[1] == brokerzmq.TASK:
            self._ids[message[3]] = message[2]
        if message[1] == brokerzmq.REQUEST and message[0] not in self._admitted:
            self._early.add(message[0])  # a worker asks only once, so remember it
            return False
        self._message = message
        return True

    def _again(self, task: bytes) -> None:
        """Give a task whose worker is dead to another, or back to the front of the queue."""
        number = self._ids.get(task, b"")
        if self._broker.available_workers:
            self.send_multipart([self._broker.available_workers.popleft(), brokerzmq.TASK, task])
        else:
            self._broker.unassigned_tasks.appendleft((number, task))

    def _admit(self, worker: bytes) -> None:
        """Let a worker have tasks from now on."""
        self._admitted.add(worker)
        if worker in self._early:
            self._early.discard(worker)
            self._due.append([worker, brokerzmq.REQUEST])

    def _bar(self, worker: bytes) -> None:
        """Give a worker no tasks until it is admitted again."""
        if worker in self._broker.available_workers:
            self._early.add(worker)  # its request is pending, and it will not ask again
        self._forget(worker)
        self.news.put(("barred", worker, b""))

    def _forget(self, worker: bytes) -> None:
        """Give a worker no tasks any more."""
        self._admitted.discard(worker)
        while worker in self._broker.available_workers:
            self._broker.available_workers.remove(worker)

    def _listen(self, address: str) -> None:
        sockets = (self._socket, self._broker.info_socket)
        try:
            ports = [socket.bind_to_random_port(url("tcp", address)) for socket in sockets]
        except zmq.ZMQError as error:
            self.news.put(("deaf", address, str(error)))
        else:
            self.news.put(("listens", address, ports))


class Broker:
    """A broker of SCOOP, in a thread.

    Workers reach it at the addresses where it is ordered to listen, the origin at ``place``.

    Args:
        secret: of the run.

    Attributes:
        place: its address inside this process.
        context: of ZeroMQ; ``place`` exists only in this context.
        gate: takes orders, and brings news.
    """

    place = "inproc://scoop"

    def __init__(self, secret: str) -> None:
        self._broker = brokerzmq.Broker(f"{self.place}-task", f"{self.place}-info")
        self.context = self._broker.context
        curve.keep(self.context, secret)
        for socket in (self._broker.task_socket, self._broker.info_socket):
            curve.serve(socket, secret, BEAT, DEAD)
        self.gate = self._broker.task_socket = BrokerGate(self._broker)
        self._thread = threading.Thread(target=self._broker.run, daemon=True)
        self._thread.start()

    def works(self, patience: float) -> bool:
        """Whether its thread is alive, and has polled within the last ``patience`` seconds."""
        return self._thread.is_alive() and time.monotonic() - self.gate.turned < patience
