"""A host's dispynode, private to one run and started by the host's agent.

It is dispy's own ``_DispyNode``, without UDP, and with mutual TLS from the run's secret. Its first
line of input has the arguments of :class:`DispyNode`; it sends ``{"port": n}`` once it answers
there, and heartbeats. It ends itself when it is deaf, or can no longer send answers; the dispatcher
then starts another one.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from cluster.backends.dispy import job, shim
from cluster.backends.dispy.probe import Place
from cluster.backends.dispy.seal import Seal
from cluster.backends.kit.door import Door
from cluster.backends.kit.process import Say, beat, end, run
from cluster.common.errors import EngineError
from cluster.hosts.process_tree import is_alive

# Seconds between checks, between connections to its own port, and within which one must answer.
_TICK = 1.0
_PROBES = 2.0
_PATIENCE = 3.0
# Failed connections in a row after which it is deaf.
_DEAF = 3
# Seconds of one check after which it hangs. A check may be as slow as the node is.
_HUNG = 60.0
# Where the system keeps the semaphores of multiprocessing's queues, and the bytes one takes.
_MEMORY, _LEAST = "/dev/shm", 1 << 12
# Checks in a row that must find a job's process gone: its last answer may still be in the queue.
_ROUNDS = 2


def main() -> None:
    """Serve until killed; the agent does that. Never started by hand."""
    run(_serve)


def _serve(wanted: Mapping[str, Any], say: Say) -> None:
    try:
        # A new folder: files that a killed dispynode left behind keep another from starting.
        folder = tempfile.mkdtemp(prefix="dispynode-", dir=os.environ["CLUSTER_FOLDER"])
        node = DispyNode(wanted, folder)
        node.open()
    except OSError as error:
        end(f"dispynode could not begin: {error}{_want_of_memory()}")
    say({"port": node.port})
    beat(say, node.beat)
    while True:
        time.sleep(_TICK)
        node.look()


class DispyNode:
    """A dispynode, and the checks of its health.

    Args:
        wanted: ``address`` and ``port`` to listen at (port 0: any free one), ``jobs`` at a time,
            and the ``secret``.
        folder: a private one for dispynode's files.

    Attributes:
        port: the port that it listens on.
        looked: when the last check began, in seconds of the monotonic clock.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, wanted: Mapping[str, Any], folder: str) -> None:
        self._address = str(wanted["address"])
        seal = Seal(str(wanted["secret"]))
        dispy = shim.install(seal, job.check)
        # dispynode relies on it: jobs inherit their setup. Python 3.14 has another default.
        multiprocessing.set_start_method("fork")
        self._gate = Door(self._address, int(wanted["port"]), seal.server, shim.CALLERS)
        self.port = self._gate.port
        self._place = Place(self._address, self.port, seal)
        self._dispynode = _dispynode(dispy, self._address, self.port, seal, folder)
        # Jobs only wait for the host's workers, so there may be more of them than cores.
        self._dispynode.num_cpus = self._dispynode.avail_cpus = int(wanted["jobs"])
        self._ended: dict[int, int] = {}
        self._deaf, self._probe_at, self.looked = 0, 0.0, time.monotonic()

    def open(self) -> None:
        """Start to answer.

        Raises:
            EngineError: it does not answer.
        """
        self._gate.open(shim.requests_of(self._dispynode, sealed=True))
        self._place.info(_PATIENCE)

    def beat(self) -> Mapping[str, Any] | None:
        """The heartbeat; None if the main thread hangs, in dispy or on one of its locks."""
        hangs = time.monotonic() - self.looked > _HUNG
        return None if hangs else {"beat": self.looked}

    def look(self) -> None:
        """Check for what dispynode does not notice: killed jobs, and its own failures."""
        self.looked = time.monotonic()
        self._answer_for_the_dead()
        if any(_has_ended(client.setup_proc) for client in list(self._dispynode.clients.values())):
            end("the process that jobs are forked from has ended")
        if time.monotonic() >= self._probe_at:
            self._probe_at = time.monotonic() + _PROBES
            self._listen()

    def _listen(self) -> None:
        try:
            self._place.info(_PATIENCE)
        except EngineError as error:
            self._deaf += 1
            if self._deaf >= _DEAF:
                end(f"dispynode is deaf: {error}")
        else:
            self._deaf = 0

    def _answer_for_the_dead(self) -> None:
        """Answer for killed jobs, for which dispynode would wait for ever.

        If even that answer does not get out, the killed job has locked the queue of all answers.
        """
        with self._dispynode.thread_lock:
            jobs = dict(self._dispynode.job_infos)
        gone = {uid for uid, info in jobs.items() if info.pid and not is_alive(info.pid)}
        self._ended = {uid: self._ended.get(uid, 0) + 1 for uid in gone}
        for uid, rounds in self._ended.items():
            if rounds == _ROUNDS:
                self._dispynode.reply_Q.put(_terminated(jobs[uid].job_reply))
            elif rounds > _ROUNDS + _DEAF:
                end("a job was killed while it answered, and holds up all answers")


def _dispynode(dispy: Any, address: str, port: int, seal: Seal, folder: str) -> Any:
    """Create a ``_DispyNode`` that opens no sockets of its own."""
    dispy.config.NodePort = str(port)
    from dispy import dispynode

    # With psutil, each job and each heartbeat reads /proc, for numbers that nobody uses.
    dispynode.psutil = None

    class Quiet(dispynode._DispyNode):  # type: ignore[misc, unused-ignore]
        udp_server = tcp_server = shim.no_server
        broadcast_ping_msg = send_terminate = shim.silence

    logger = dispynode.dispynode_logger
    logger.stream = sys.stderr
    logger.setLevel(logger.WARNING)
    node = Quiet(
        1,
        hosts=[address],
        dest_path_prefix=folder,
        secret=seal.token,
        keyfile="sealed",
        certfile="sealed",
        zombie_interval=0,
        daemon=True,
    )
    sys.path.remove(".")
    return node


def _terminated(reply: Any) -> Any:
    """The answer on behalf of a job that was killed."""
    from dispy import DispyJob
    from pycos import serialize

    dead = copy.copy(reply)
    dead.status, dead.result, dead.end_time = DispyJob.Terminated, serialize(None), time.time()
    dead.exception = "its process was killed"
    return dead


def _want_of_memory() -> str:
    """The explanation and fix if the shared memory that dispynode's queues need is full."""
    try:
        disk = os.statvfs(_MEMORY)
    except OSError as error:
        return f"; its queues need {_MEMORY}: {error.strerror}"
    full = disk.f_bavail * disk.f_frsize < _LEAST
    return f"; {_MEMORY}, where its queues are, is full there: free some of it" if full else ""


def _has_ended(process: Any) -> bool:
    return process is not None and not process.is_alive()


if __name__ == "__main__":
    main()
