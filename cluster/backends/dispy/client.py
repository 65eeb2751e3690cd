"""dispy's client as the driver uses it: nodes come and go, texts go out, and what becomes of them.

dispy is a transport here: which task is where, what is lost and what is tried again is decided
elsewhere. Its own waiting, retrying, recovering and cancelling are not used, for they lose jobs.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from typing import Any, NamedTuple

from cluster.backends.dispy import job, shim
from cluster.backends.dispy.seal import Seal
from cluster.backends.kit.door import Door
from cluster.backends.kit.mailbox import Mailbox

_PULSE, _PING = 2.0, 1.0


class Event(NamedTuple):
    """What dispy told: of a job by its ``name``, or of the node at an ``address``.

    Attributes:
        kind: ``up``, ``down``, ``answer`` or ``lost``; of the driver's own looks, ``useless``.
        text: the answer, or why there is none.
    """

    kind: str
    address: str = ""
    name: str = ""
    text: str = ""


class Client:
    """A dispy cluster of explicit nodes, which need not be there yet.

    Args:
        seal: for all connections; None for plain ones, to stock nodes.
        token: dispy's own secret, where there is no seal.

    Attributes:
        events: what happened, as dispy's threads told it.
    """

    def __init__(self, seal: Seal | None, token: str = "") -> None:
        self._seal, self._token = seal, seal.token if seal else token
        self._dispy = shim.install(seal)
        self._gates: dict[str, Door] = {}
        self._cluster: Any = None
        self.events: Mailbox[Event] = Mailbox()

    def add(self, address: str, port: int, jobs: int, here: str) -> None:
        """Use the node there, once it answers, in place of any before it at that address.

        Args:
            address: of the node.
            port: of the node.
            jobs: at a time.
            here: our own address, as the node sees it.

        Raises:
            OSError: we cannot listen there.
        """
        self._listen(here)
        allocation = self._allocation(address, port, jobs)
        if self._cluster is None:
            self._open(here, allocation)
        else:
            self._do(self._replace, address, allocation)

    def remove(self, address: str) -> None:
        """Have no more to do with the node there."""
        if self._cluster is not None:
            self._do(self._replace, address, None)

    def submit(self, name: str, address: str, text: str) -> bool:
        """Send a job to a node; False if it is not there (any more)."""
        return self._cluster.submit_job_id_node(name, address, text) is not None

    @property
    def begun(self) -> bool:
        """Whether a node can hold anything for us."""
        return self._cluster is not None

    def held(self, address: str) -> dict[str, Any]:
        """What a node holds for us, as it must be told to let go of it."""
        compute = self._cluster._compute
        return {"compute_id": compute.id, "auth": compute.auth, "node_ip_addr": address}

    # -- dispy's thread calls these ---------------------------------------------------------------

    def job_status(self, done: Any) -> None:
        """A job has ended, or never began."""
        if done.status == self._dispy.DispyJob.Finished and isinstance(done.result, str):
            self.events.put(Event("answer", done.ip_addr, str(done.id), done.result))
        else:
            words = (done.exception or "dispy gave it up").strip().splitlines()[-1]
            self.events.put(Event("lost", done.ip_addr or "", str(done.id), words))

    def cluster_status(self, status: int, node: Any, given: Any) -> None:
        """A node has come or gone, or has taken a job with it."""
        if status == self._dispy.DispyNode.Initialized:
            self.events.put(Event("up", node.ip_addr))
        elif status == self._dispy.DispyNode.Closed:
            self.events.put(Event("down", node.ip_addr))
        elif status == self._dispy.DispyJob.Abandoned:
            self.events.put(Event("lost", "", str(given.id), "its node is gone"))

    # -- inside -----------------------------------------------------------------------------------

    def _listen(self, here: str) -> None:
        """Be reachable at an address of ours; at all of them by the same port."""
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
        # There is one of it, which the cluster then finds: it must hear before it calls.
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
        # Whether a node is there is told by an agent.
        inner.pulse_interval = None
        # They wait without end for every job.
        atexit.unregister(self._cluster.shutdown)
        atexit.unregister(inner.shutdown)

    def _allocation(self, address: str, port: int, jobs: int) -> Any:
        class Exactly(self._dispy.NodeAllocate):  # type: ignore[misc, name-defined]
            """Only this node; dispy takes 10.0.0.10 for 10.0.0.1 as well."""

            def allocate(
                self, _cluster: Any, ip_addr: str, _name: str, cpus: int, *_more: Any, **_named: Any
            ) -> int:
                return min(cpus, jobs) if ip_addr == self.ip_addr else 0

        return Exactly(address, port=port)

    def _do(self, what: Any, *arguments: Any) -> None:
        from pycos import Task

        Task(what, *arguments)

    def _replace(self, address: str, allocation: Any, task: Any = None) -> Iterator[Any]:
        """In dispy's thread: forget a node, and what was to be allocated of it; perhaps anew.

        dispy's own ``allocate_node`` begins again with every node that is just being set up.
        """
        cluster, inner = self._cluster, self._cluster._cluster
        cluster._node_allocs = [each for each in cluster._node_allocs if each.ip_addr != address]
        node = inner._nodes.get(address)
        if node is not None:
            inner.delete_node(node)
        if allocation is not None:
            cluster._node_allocs.append(allocation)
            yield inner.discover_nodes(cluster, [allocation], task=task)
