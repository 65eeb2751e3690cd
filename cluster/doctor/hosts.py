"""Checks of the hosts of a spec; an agent is started on each, as in a run."""

from __future__ import annotations

import selectors
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

from cluster.backends.base import Entry, Health, Options, kind
from cluster.doctor.finding import Finding
from cluster.doctor.there import TIMEOUT, TokenServer, reached, versions
from cluster.hosts.connect import (
    Change,
    Fleet,
    Host,
    HostState,
    Patience,
    Reach,
    is_here,
    start_agent,
)
from cluster.hosts.fingerprint import is_drawn
from cluster.hosts.nodes import Node, NodeList
from cluster.sampling.task import Work

HOSTS = "hosts"
_THERE = "cluster.doctor.there"
# Seconds for a host to start its agent, retries included; one attempt of ssh takes at most 10.
_START_TIMEOUT = 30.0
# Seconds for the helper to answer, which itself waits for connections.
_ANSWER_TIMEOUT = 4 * TIMEOUT
_TICK = 0.1
# Seconds between heartbeats: frequent ones measure the clock's offset soon.
_BEAT = 0.2
# Bytes; with less free disk there is a warning.
_LEAST_FREE = 100 << 20
# Seconds: a clock off by less than the first counts as equal, by more than the second is warned of.
_NEAR, _FAR = 0.01, 1.0

_HOW = {"from": "cannot reach us at", "to": "cannot be reached at", "between": "cannot reach"}


@dataclass
class Visit:
    """What was found on one host.

    Attributes:
        node: the host as the spec has it.
        foreign: what it is if it is no node of ours, which is only asked to draw; else empty.
        trouble: why it has no agent, and the fix; both empty if it has one.
        hello: the agent's handshake.
        probe: the outcome of the kernel's probe, see
            :func:`cluster.hosts.fingerprint.probed`; of several kernels, that of one that failed.
        remark: what a run there would log about the comparison of probes, or empty.
        clock: seconds that its clock is ahead of ours, and the uncertainty; None: not measured.
        facts: see :func:`cluster.doctor.there.facts`; empty if the host did not answer.
        blocked: connections that the engine would need and that failed: the route, the other end,
            and the reason.
        untried: routes that were not tried, because there was no answer or no other host.
    """

    node: Node
    foreign: str = ""
    trouble: tuple[str, str] = ("", "")
    hello: Mapping[str, Any] = field(default_factory=dict)
    probe: str = ""
    remark: str = ""
    clock: tuple[float, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    blocked: list[tuple[str, str, str]] = field(default_factory=list)
    untried: set[str] = field(default_factory=set)

    @property
    def way(self) -> str:
        """How the host was reached, in words."""
        if self.node.attach is not None:
            return f"by {self.foreign or 'the attached node'} at its port"
        return "this machine, without ssh" if is_here(self.node) else "over ssh"


def checkup(nodes: NodeList, work: Work, entry: Entry, options: Options) -> list[Finding]:
    """Visit the hosts of a spec, and report the findings.

    Args:
        nodes: the hosts of the spec.
        work: what a run would draw there.
        entry: the backend that the run would use; it is a hosted one.
        options: the options that the backend would get, with the further kernels of a sweep.
    """
    health = kind(entry.name).health()
    here = [] if health is None else [_own(health)]
    return here + findings(visit(nodes.hosts, work, entry, options), entry, nodes.required)


def _own(health: Health) -> Finding:
    return Finding(health.check, "ok" if health.ok else "bad", health.message, health.fix)


def findings(visits: Sequence[Visit], entry: Entry, required: int | None) -> list[Finding]:
    """Turn what was found on the hosts into findings.

    Args:
        visits: one of each host.
        entry: the backend that the run would use.
        required: number of hosts that the run needs; None: all.
    """
    found = [finding for each in visits for finding in _of_host(each, entry)]
    found += _twins(visits)
    bad = {finding.host for finding in found if finding.bad}
    missing = [each.node.host for each in visits if each.node.host in bad]
    usable, wanted = len(visits) - len(missing), required or len(visits)
    if usable >= wanted:
        return [*found, Finding(HOSTS, "ok", f"{usable} of {len(visits)} can be used")]
    message = f"{usable} of {wanted} required hosts can be used; missing: {', '.join(missing)}"
    fix = f"fix them, or continue without them: --set nodes.required={usable}" if usable else None
    return [*found, Finding(HOSTS, "bad", message, fix)]


# -- findings --------------------------------------------------------------------------------------


def _of_host(visit: Visit, entry: Entry) -> Iterator[Finding]:
    name = visit.node.host
    reason, fix = visit.trouble
    if reason:
        yield Finding("host", "bad", reason, fix or None, name)
        return
    yield _who(visit)
    if visit.remark:
        fix = "compare results from both kinds of host"
        yield Finding("probe", "warn", visit.remark, fix, name)
    yield _cores(visit)
    if visit.clock is not None:
        yield _clock(visit, *visit.clock)
    if visit.foreign:
        return
    if not visit.facts:
        fix = "check that programs can be started there"
        yield Finding("answers", "bad", "its agent could start no program that answers", fix, name)
        return
    yield from (_threads(visit), _disk(visit), *_modules(visit, entry), _ports(visit, entry))
    if visit.facts["root"]:
        fix = "name an ordinary user with the node's key user"
        yield Finding("user", "warn", "kernels run as root, and could change any file", fix, name)


def _who(visit: Visit) -> Finding:
    """The handshake, and the kernel's probe if it was drawn."""
    name, hello = visit.node.host, visit.hello
    same = "Python {python}, numpy {numpy}, cluster {cluster}, kernel and draws as here"
    words = f"{visit.way}; {same.format_map(hello)}; "
    if visit.probe and not is_drawn(visit.probe):
        fix = "make sure that the kernel can be imported and run there"
        return Finding("host", "bad", f"{words}the kernel's probe {visit.probe}", fix, name)
    probe = "the kernel's probe runs " if visit.probe else ""
    return Finding("host", "ok", f"{words}{probe}({hello['interpreter']})", None, name)


def _cores(visit: Visit) -> Finding:
    name, slots, cores = visit.node.host, visit.node.slots, int(visit.hello["cores"])
    shown = f"{cores} usable core{'s' * (cores != 1)}"
    if slots is None:
        return Finding("cores", "ok", f"{shown}, and as many slots", None, name)
    if slots > cores:
        message = f"{slots} slots on {shown}: they compete for the cores"
        return Finding("cores", "warn", message, f"give it slots: {cores}", name)
    return Finding("cores", "ok", f"{shown}, {slots} slot{'s' * (slots != 1)}", None, name)


def _clock(visit: Visit, ahead: float, within: float) -> Finding:
    name = visit.node.host
    if abs(ahead) <= max(within, _NEAR):
        return Finding(
            "clock", "ok", f"equal to ours within {max(within, abs(ahead)):.3f} s", None, name
        )
    shown = f"{abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} ours, ± {within:.3f} s"
    if abs(ahead) - within < _FAR:
        return Finding("clock", "ok", shown, None, name)
    message = f"{shown}: results do not depend on it, but times in logs do not match"
    return Finding("clock", "warn", message, "synchronize it by NTP (timedatectl, chronyc)", name)


def _threads(visit: Visit) -> Finding:
    """Whether the threads of numerical libraries, of which each slot has its own, fit the cores."""
    name, cores = visit.node.host, int(visit.hello["cores"])
    slots = visit.node.slots or cores
    limits = {key: str(value) for key, value in visit.facts["threads"].items()}
    if unset := [f"{key}={n}" for key, n in limits.items() if not n.isdigit() or n == "0"]:
        message = f"{', '.join(unset)}: libraries choose how many threads each slot has"
        fix = f"omit it from the node's env, or set it to {max(1, cores // slots)}"
        return Finding("threads", "warn", message, fix, name)
    counts = {key: int(value) for key, value in limits.items()}
    most = max(counts, key=lambda key: counts[key], default="")
    if not most or counts[most] <= 1:
        names = f"{most}=1" + " and others" * (len(counts) > 1)
        message = f"libraries use one thread per slot ({names})" if most else "not reported"
        return Finding("threads", "ok", message, None, name)
    message = f"{most}={counts[most]} in each of {slots} slots, on {cores} usable cores"
    if counts[most] * slots <= cores:
        return Finding("threads", "ok", message, None, name)
    fix = f"omit {most} from the node's env, or give the host fewer slots"
    return Finding("threads", "warn", message, fix, name)


def _disk(visit: Visit) -> Finding:
    name, seen = visit.node.host, visit.facts
    if not seen["writable"]:
        fix = "set CLUSTER_CACHE in the node's env to a writable folder"
        return Finding("disk", "bad", f"{seen['cache']} is not writable", fix, name)
    message = f"{seen['free'] / 1e9:.1f} GB free for {seen['cache']}"
    if seen["free"] >= _LEAST_FREE:
        return Finding("disk", "ok", message, None, name)
    fix = "free some space, or set CLUSTER_CACHE in the node's env to a folder on another disk"
    return Finding("disk", "warn", message, fix, name)


def _modules(visit: Visit, entry: Entry) -> Iterator[Finding]:
    """Whether the engine's packages are installed there, in the same version as here."""
    name, there = visit.node.host, dict(visit.facts["modules"])
    numba = there.pop("numba", None)
    if numba is None and find_spec("numba"):
        fix = "install numba there; results are the same without it"
        message = "missing there: kernels that have a numpy twin use it, and are slower"
        yield Finding("numba", "warn", message, fix, name)
    here = dict(versions(entry.needs))
    missing = [module for module, version in there.items() if version is None]
    other = [
        f"{module} {version}, here {here[module]}"
        for module, version in there.items()
        if version is not None and version != here[module]
    ]
    if missing:
        message = f"{', '.join(missing)}: missing there"
        yield Finding(entry.name, "bad", message, f"there: {entry.install}", name)
    elif other:
        fix = "install the version there that is installed here"
        status = "bad" if entry.exact else "warn"
        yield Finding(entry.name, status, "; ".join(other), fix, name)
    elif there:
        shown = ", ".join(f"{module} {version}" for module, version in there.items())
        yield Finding(entry.name, "ok", f"{shown}, as here", None, name)


def _ports(visit: Visit, entry: Entry) -> Finding:
    name, routes = visit.node.host, entry.routes
    if not routes:
        message = f"none: backend {entry.name} opens no port and uses only the ssh connection"
        return Finding("ports", "ok", message, None, name)
    if visit.blocked:
        failed = "; ".join(f"{_HOW[route]} {place}: {why}" for route, place, why in visit.blocked)
        fix = (
            f"let TCP through between the hosts and this machine ({entry.name} uses free ports"
            " from 1024 on; on an attached node, the one after its own), or use backend ssh,"
            " which needs none"
        )
        return Finding("ports", "bad", failed, fix, name)
    if "from" in visit.untried or "to" in visit.untried:
        message = "not tried: it did not answer the request to try them"
        return Finding("ports", "warn", message, "check that programs can be started there", name)
    ways = {"from": "it reaches us", "to": "we reach it", "between": "it reaches the others"}
    message = ", ".join(
        ways[route] for route in ways if route in routes and route not in visit.untried
    )
    where = "on free ports" if visit.node.attach is None else "on the ports that a run uses"
    return Finding("ports", "ok", f"{message} {where}", None, name)


def _twins(visits: Sequence[Visit]) -> Iterator[Finding]:
    """Warn of a machine under several names, whose slots would compete for the same cores."""
    names = defaultdict(list)
    for visit in visits:
        if visit.hello.get("machine"):
            names[visit.hello["machine"]].append(visit.node.host)
    for machine, hosts in names.items():
        if len(hosts) > 1:
            message = f"{' and '.join(hosts)} have the machine-id {machine}: they are one machine"
            fix = "leave one of them out; if they are clones, run systemd-machine-id-setup on each"
            yield Finding("machine", "warn", message, fix)


# -- the visit -------------------------------------------------------------------------------------


def visit(nodes: Sequence[Node], work: Work, entry: Entry, options: Options) -> list[Visit]:
    """Visit all hosts at the same time.

    Args:
        nodes: the hosts.
        work: what a run would draw there.
        entry: the backend that the run would use.
        options: the options that the backend would get.
    """
    engine = kind(entry.name)
    reach = partial(engine.reach, options=options)
    visits = [Visit(node, engine.foreign(node, options)) for node in nodes]
    with (
        selectors.DefaultSelector() as selector,
        closing(Tour(visits, work, selector, reach)) as tour,
    ):
        tour.hold_to(options)
        tour.meet()
        tour.ask(("numba", *entry.needs))
        tour.try_ports(entry.routes)
        return list(tour.visits.values())


class Tour:
    """The agents of all hosts, and the requests that are sent to them.

    Args:
        visits: one of each host; what is found is entered there.
        work: what a run would draw on them.
        selector: where the agents' channels are registered.
        reach: how the engine starts the agent of a host.
    """

    def __init__(
        self, visits: Sequence[Visit], work: Work, selector: selectors.BaseSelector, reach: Reach
    ) -> None:
        self.visits = {visit.node.host: visit for visit in visits}
        self._selector = selector
        self._fleet = Fleet(
            [_one_slot(visit.node) for visit in visits],
            work,
            selector,
            Patience(beat=_BEAT, ready=_START_TIMEOUT),
            dial=partial(start_agent, reach=reach),
        )
        self._answers: dict[tuple[str, int], dict[str, Any]] = {}

    def close(self) -> None:
        """End all agents, and every process that they started."""
        self._fleet.close()

    def hold_to(self, options: Options) -> None:
        """Probe the further kernels of a sweep, too."""
        self._fleet.hold_to(options.kernels, options.probes, options.probed)

    def meet(self) -> None:
        """Wait until each host has an agent, or failed to start one."""
        hosts = self._fleet.hosts.values()
        self._turn(_START_TIMEOUT, lambda: all(map(self._is_settled, hosts)))
        # Probes get as much time again, since they begin only when a host is up.
        self._turn(_START_TIMEOUT, lambda: not self._fleet.deciding)
        for host in hosts:
            seen = self.visits[host.name]
            seen.hello, seen.remark = host.hello, host.remark
            failed = (probe for probe in host.probes.values() if not is_drawn(probe))
            seen.probe = next(failed, host.probes.get(0, ""))
            if not host.ready:
                seen.trouble = host.reason, host.fix

    def ask(self, modules: Sequence[str]) -> None:
        """Collect the facts of all hosts; their helpers listen from then on."""
        asked = {
            host: {"listen": host.hello["address"], "port": _port(host), "modules": modules}
            for host in self._ready()
        }
        for host, answer in self._answers_to(asked).items():
            seen = self.visits[host.name]
            seen.facts = answer
            if host.clock is not None:
                seen.clock = host.clock

    def try_ports(self, routes: Collection[str]) -> None:
        """Try the connections that an engine would make: from us, to us, and between hosts."""
        hosts = [host for host in self._ready() if self.visits[host.name].facts]
        for host in hosts:
            self.visits[host.name].untried = set(routes)
        if "to" in routes:
            self._try_to(hosts)
        if "from" in routes:
            self._try_from(hosts)
        if "between" in routes:
            self._try_between(hosts)

    # -- connections ------------------------------------------------------------------------------

    def _try_to(self, hosts: Sequence[Host]) -> None:
        problems = reached([self._place(host) for host in hosts])
        for host, why in zip(hosts, problems, strict=True):
            self.visits[host.name].untried.discard("to")
            listen_error = self.visits[host.name].facts["deaf"]
            if listen_error or why:
                address = str(host.hello["address"])
                self.visits[host.name].blocked.append(("to", address, listen_error or why))

    def _try_from(self, hosts: Sequence[Host]) -> None:
        # Hosts may see us at different addresses; engines listen on each of these, and so do we.
        servers: dict[str, TokenServer] = {}
        asked = {}
        for host in hosts:
            address = str(host.hello["dispatcher"])
            try:
                server = servers[address] = servers.get(address) or TokenServer(address)
            except OSError as error:
                why = f"{error.strerror}; the host sees us at this address (is there a NAT?)"
                self.visits[host.name].blocked.append(("from", address, why))
            else:
                asked[host] = {"reach": [(address, server.port, server.token)]}
        for host, answer in self._answers_to(asked).items():
            self.visits[host.name].untried.discard("from")
            for why in filter(None, answer["reached"]):
                self.visits[host.name].blocked.append(("from", str(host.hello["dispatcher"]), why))
        for server in servers.values():
            server.close()

    def _try_between(self, hosts: Sequence[Host]) -> None:
        # Connections with hosts on this machine are already covered by "from" and "to".
        remote = [host for host in hosts if not is_here(host.node)]
        others = {host: [other for other in remote if other is not host] for host in remote}
        asked = {host: {"reach": [self._place(other) for other in others[host]]} for host in remote}
        for host, answer in self._answers_to(asked).items():
            self.visits[host.name].untried -= {"between"} if others[host] else set()
            for other, why in zip(others[host], answer["reached"], strict=True):
                if why:
                    self.visits[host.name].blocked.append(("between", other.name, why))

    def _place(self, host: Host) -> tuple[str, int, str]:
        facts = self.visits[host.name].facts
        return str(host.hello["address"]), int(facts["port"]), str(facts.get("word"))

    # -- the agents -------------------------------------------------------------------------------

    def _ready(self) -> list[Host]:
        """The hosts that can be sent requests."""
        hosts = self._fleet.hosts.values()
        return [host for host in hosts if host.ready and not self.visits[host.name].foreign]

    @staticmethod
    def _is_settled(host: Host) -> bool:
        """Whether it has an agent, or its first attempt to start one has failed."""
        over = host.standing is HostState.AWAY and host.born
        return bool(host.ready or over or host.standing is HostState.REFUSED)

    def _answers_to(self, asked: Mapping[Host, Any]) -> dict[Host, dict[str, Any]]:
        """Send each host its request; returns the answers of those that gave one."""
        started = {
            host: (host.name, host.start_module(_THERE, question))
            for host, question in asked.items()
        }
        self._fleet.send()
        self._turn(
            _ANSWER_TIMEOUT,
            lambda: all(key in self._answers or not h.ready for h, key in started.items()),
        )
        return {h: self._answers[key] for h, key in started.items() if self._answers.get(key)}

    def _turn(self, seconds: float, done: Callable[[], bool]) -> None:
        """Serve the agents until ``done()``, or until the time is over."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            for host, change, message in self._fleet.tend():
                if change is Change.TOLD and isinstance(message, dict):
                    self._receive(host, message)
            self._fleet.send()
            for key, mask in self._selector.select(_TICK):
                key.data(mask)

    def _receive(self, host: Host, message: dict[str, Any]) -> None:
        if "said" in message:
            self._answers[host.name, message["said"]] = message["message"]
        elif "exited" in message:
            self._answers.setdefault((host.name, message["exited"]), {})


def _one_slot(node: Node) -> Node:
    """The node with one slot: one worker shows whether the kernel runs there."""
    return replace(node, slots=1)


def _port(host: Host) -> int:
    """The port where a run's process would listen on the host; 0: any free one."""
    return 0 if host.node.attach is None else host.node.attach + 1
