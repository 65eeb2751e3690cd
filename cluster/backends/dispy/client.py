"""dispy's client as a transport: nodes join and leave, jobs are sent, and events report the rest.

Which task is where, what is lost and what is retried is decided elsewhere. dispy's own waiting,
retrying, recovery and cancelling are not used, because they lose jobs.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from typing import Any, NamedTuple

from cluster.backends.dispy import job, shim
from cluster.backends.dispy.seal import Seal
from cluster.backends.kit.door import Door
from cluster.backends.kit.mailbox import Mailbox

# Seconds between a node's heartbeats, and between dispy's attempts to find missing nodes.
_PULSE, _PING = 2.0, 1.0


class Event(NamedTuple):
    """A report of dispy about a job or a node.

    Attributes:
        kind: ``up`` or ``down``, of a node; ``answer`` or ``lost``, of a job; or ``useless``, of a
            node that the driver itself found unusable.
        address: of the node; empty: not known.
        name: of the job.
        text: the answer, or the reason.
    """

    kind: str
    address: str = ""
    name: str = ""
    text: str = ""


class Client:
    """A dispy cluster of explicitly named nodes, which may come up later.

    Args:
        seal: for all connections; None: plain ones, to stock nodes.
        token: dispy's own secret, if there is no seal.

    Attributes:
        events: the reports of dispy's threads.
    """

    def __init__(self, seal: Seal | None, token: str = "") -> None:
        self._seal, self._token = seal, seal.token if seal else token
        self._dispy = shim.install(seal)
        self._gates: dict[str, Door] = {}
        self._cluster: Any = None
        self.events: Mailbox[Event] = Mailbox()

    def add(self, address: str, port: int, jobs: int, here: str) -> None:
        """Use a node as soon as it answers, replacing any at the same address.

        Args:
            address: of the node.
            port: of the node.
            jobs: the most jobs that it may have at a time.
            here: our own address as the node sees it: nodes connect back for every answer.

        Raises:
            OSError: we cannot listen at ``here``.
        """
        self._listen(here)
        allocation = self._allocation(address, port, jobs)
        if self._cluster is None:
            self._open(here, allocation)
        else:
            self._do(self._replace, address, allocation)

    def remove(self, address: str) -> None:
        """Stop using the node at an address."""
        if self._cluster is not None:
            self._do(self._replace, address, None)

    def submit(self, name: str, address: str, text: str) -> bool:
        """Send a job to a node.

        Args:
            name: identifies the job in later events.
            address: of the node.
            text: the job's only argument.

        Returns:
            False: dispy does not have the node, or not any more.
        """
        return self._cluster.submit_job_id_node(name, address, text) is not None

    @property
    def begun(self) -> bool:
        """Whether any node was ever added, and so may be reserved for us."""
        return self._cluster is not None

    def held(self, address: str) -> dict[str, Any]:
        """The fields by which a node is told to release the computation that it holds for us."""
        compute = self._cluster._compute
        return {"compute_id": compute.id, "auth": compute.auth, "node_ip_addr": address}

    # -- dispy's thread calls these ---------------------------------------------------------------

    def job_status(self, done: Any) -> None:
        """Callback: a job has ended, or was never started."""
        if done.status == self._dispy.DispyJob.Finished and isinstance(done.result, str):
            self.events.put(Event("answer", done.ip_addr, str(done.id), done.result))
        else:
            words = (done.exception or "dispy gave it up").strip().splitlines()[-1]
            self.events.put(Event("lost", done.ip_addr or "", str(done.id), words))

    def cluster_status(self, status: int, node: Any, given: Any) -> None:
        """Callback: a node is up or closed, or a job was lost with its node.

        Args:
            status: dispy's code of the event.
            node: dispy's object of the node.
            given: dispy's object of the job, if the event is about one.
        """
        if status == self._dispy.DispyNode.Initialized:
            self.events.put(Event("up", node.ip_addr))
        elif status == self._dispy.DispyNode.Closed:
            self.events.put(Event("down", node.ip_addr))
        elif status == self._dispy.DispyJob.Abandoned:
            self.events.put(Event("lost", "", str(given.id), "its node is gone"))

    # -- inside -----------------------------------------------------------------------------------

    def _listen(self, here: str) -> None:
        """Listen at one more address of ours, always on the same port: dispy announces only one."""
        if here in self._gates:
            return
        known = next(iter(self._gates.values()), None)
        sealed = self._seal.server if self._seal else None
        self._gates[here] = Door(here, known.port if known else 0, sealed, shim.CALLERS)
        if self._cluster is not None:
            self._answer_at(here, self._cluster._cluster)

    def _answer_at(self, here: str, inner: Any) -> None:
        inner.ip_addrs.append(here)
        self._gates[here].open(shim.requests_of(inner, sealed=self._seal is not None))

    def _open(self, here: str, allocation: Any) -> None:
        dispy = self._dispy
        dispy.config.ClientPort = str(self._gates[here].port)
        proof = "sealed" if self._seal else None
        same = {"host": here, "secret": self._token, "keyfile": proof, "certfile": proof}
        # A singleton, which JobCluster finds. Make it first: it must be able to receive the nodes'
        # replies before JobCluster pings them.
        inner = dispy._Cluster(**same)
        draw, prepare = job.OURS if self._seal else job.ALONE
        self._answer_at(here, inner)
        self._cluster = dispy.JobCluster(
            draw,
            nodes=[allocation],
            depends=[],
            setup=prepare,
            reentrant=False,
            pulse_interval=_PULSE,
            ping_interval=_PING,
            job_status=self.job_status,
            cluster_status=self.cluster_status,
            loglevel=dispy.logger.WARNING,
            **same,
        )
        # Whether a host is alive, its agent knows better.
        inner.pulse_interval = None
        # At exit they would wait for every job, without a timeout.
        atexit.unregister(self._cluster.shutdown)
        atexit.unregister(inner.shutdown)

    def _allocation(self, address: str, port: int, jobs: int) -> Any:
        class Exactly(self._dispy.NodeAllocate):  # type: ignore[misc, name-defined]
            """Only this address: dispy compares prefixes, so 10.0.0.10 also passes for 10.0.0.1."""

            def allocate(
                self, _cluster: Any, ip_addr: str, _name: str, cpus: int, *_more: Any, **_named: Any
            ) -> int:
                return min(cpus, jobs) if ip_addr == self.ip_addr else 0

        return Exactly(address, port=port)

    def _do(self, what: Any, *arguments: Any) -> None:
        from pycos import Task

        Task(what, *arguments)

    def _replace(self, address: str, allocation: Any, task: Any = None) -> Iterator[Any]:
        """In dispy's thread: forget a node and its allocation, and add a new one if given.

        dispy's own ``allocate_node`` would restart every node that is just being set up.
        """
        cluster, inner = self._cluster, self._cluster._cluster
        cluster._node_allocs = [each for each in cluster._node_allocs if each.ip_addr != address]
        node = inner._nodes.get(address)
        if node is not None:
            inner.delete_node(node)
        if allocation is not None:
            cluster._node_allocs.append(allocation)
            yield inner.discover_nodes(cluster, [allocation], task=task)
