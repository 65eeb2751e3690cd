"""What could go wrong on the hosts of a spec: each is visited by an agent, as in a run."""

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
from cluster.doctor.there import PATIENCE, Ear, reached, versions
from cluster.hosts.connect import Change, Fleet, Host, HostState, Patience, Reach, is_here
from cluster.hosts.fingerprint import is_drawn
from cluster.hosts.nodes import Node, NodeList
from cluster.sampling.task import Work

HOSTS = "hosts"
_THERE = "cluster.doctor.there"
# A host that does not answer has so many seconds in all; ssh itself gives up after 10.
_MEET = 30.0
_ANSWER = 4 * PATIENCE
_TICK = 0.1
_BEAT = 0.2
_LEAST_FREE = 100 << 20
_NEAR, _FAR = 0.01, 1.0

_HOW = {"from": "cannot reach us at", "to": "cannot be reached at", "between": "cannot reach"}


@dataclass
class Visit:
    """What was seen of a host.

    Attributes:
        node: as the spec has it.
        foreign: what it is where it is none of ours, and is only asked to draw; else empty.
        trouble: why no agent is there, and the cure; empty where one is.
        hello: what the agent said of itself.
        probe: how the probe of the kernel came out there, see
            :func:`cluster.hosts.fingerprint.probed`; of
            several kernels, of one that failed.
        remark: what a run there would tell of how it was judged, or empty.
        clock: seconds that its clock is ahead, and within what; None: not measured.
        facts: see :func:`cluster.doctor.there.facts`; empty where it did not tell.
        blocked: connections that an engine would make and that failed: which of the entry's
            routes, to where, and why.
        untried: those routes that were not tried, for want of an answer or of others.
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
        """How it was reached."""
        if self.node.attach is not None:
            return f"by {self.foreign or 'the node that stands'} at its port"
        return "this machine, without ssh" if is_here(self.node) else "over ssh"


def checkup(nodes: NodeList, work: Work, entry: Entry, options: Options) -> list[Finding]:
    """Visit the hosts of a spec, and say what was found.

    Args:
        nodes: the spec's.
        work: what a run there would draw.
        entry: the backend that would have it drawn, one of several hosts.
        options: what it would be told, further kernels of a sweep among it.
    """
    health = kind(entry.name).health()
    here = [] if health is None else [_own(health)]
    return here + findings(visit(nodes.hosts, work, entry, options), entry, nodes.required)


def _own(health: Health) -> Finding:
    return Finding(health.check, "ok" if health.ok else "bad", health.message, health.fix)


def findings(visits: Sequence[Visit], entry: Entry, required: int | None) -> list[Finding]:
    """What is to be said of the hosts that were visited."""
    found = [finding for each in visits for finding in _of_host(each, entry)]
    found += _twins(visits)
    bad = {finding.host for finding in found if finding.bad}
    missing = [each.node.host for each in visits if each.node.host in bad]
    usable, wanted = len(visits) - len(missing), required or len(visits)
    if usable >= wanted:
        return [*found, Finding(HOSTS, "ok", f"{usable} of {len(visits)} can be used")]
    message = f"{usable} of {wanted} required hosts can be used; missing: {', '.join(missing)}"
    fix = f"mend them, or go on without them: --set nodes.required={usable}" if usable else None
    return [*found, Finding(HOSTS, "bad", message, fix)]


# -- what is said ----------------------------------------------------------------------------------


def _of_host(visit: Visit, entry: Entry) -> Iterator[Finding]:
    name = visit.node.host
    reason, fix = visit.trouble
    if reason:
        yield Finding("host", "bad", reason, fix or None, name)
        return
    yield _who(visit)
    if visit.remark:
        yield Finding("probe", "warn", visit.remark, "compare the numbers of two kinds", name)
    yield _cores(visit)
    if visit.clock is not None:
        yield _clock(visit, *visit.clock)
    if visit.foreign:
        return
    if not visit.facts:
        fix = "see whether other programs start there"
        yield Finding("answers", "bad", "its agent started no program that answers", fix, name)
        return
    yield from (_threads(visit), _disk(visit), *_modules(visit, entry), _ports(visit, entry))
    if visit.facts["root"]:
        fix = "name a user of your own with the node's key user"
        yield Finding("user", "warn", "root there: kernels could change any file", fix, name)


def _who(visit: Visit) -> Finding:
    """Who it is, and how the kernel's probe came out, where it was drawn."""
    name, hello = visit.node.host, visit.hello
    same = "Python {python}, numpy {numpy}, cluster {cluster}, kernel and draws as here"
    words = f"{visit.way}; {same.format_map(hello)}; "
    if visit.probe and not is_drawn(visit.probe):
        fix = "see that the kernel can be imported and run there"
        return Finding("host", "bad", f"{words}the kernel's probe {visit.probe}", fix, name)
    probe = "the kernel's probe runs " if visit.probe else ""
    return Finding("host", "ok", f"{words}{probe}({hello['interpreter']})", None, name)


def _cores(visit: Visit) -> Finding:
    name, slots, cores = visit.node.host, visit.node.slots, int(visit.hello["cores"])
    shown = f"{cores} usable core{'s' * (cores != 1)}"
    if slots is None:
        return Finding("cores", "ok", f"{shown}, and as many slots", None, name)
    if slots > cores:
        message = f"{slots} slots on {shown}: they wait for each other"
        return Finding("cores", "warn", message, f"give it slots: {cores}", name)
    return Finding("cores", "ok", f"{shown}, {slots} slot{'s' * (slots != 1)}", None, name)


def _clock(visit: Visit, ahead: float, within: float) -> Finding:
    name = visit.node.host
    if abs(ahead) <= max(within, _NEAR):
        return Finding("clock", "ok", f"as ours, to {max(within, abs(ahead)):.3f} s", None, name)
    shown = f"{abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} ours, to {within:.3f} s"
    if abs(ahead) - within < _FAR:
        return Finding("clock", "ok", shown, None, name)
    message = f"{shown}: no result depends on it, but logs of two hosts cannot be compared"
    return Finding("clock", "warn", message, "have it set by NTP (timedatectl, chronyc)", name)


def _threads(visit: Visit) -> Finding:
    """Threads of numerical libraries: each slot has so many."""
    name, cores = visit.node.host, int(visit.hello["cores"])
    slots = visit.node.slots or cores
    told = {key: str(value) for key, value in visit.facts["threads"].items()}
    if odd := [f"{key}={n}" for key, n in told.items() if not n.isdigit() or n == "0"]:
        message = f"{', '.join(odd)}: libraries choose how many threads each slot has"
        fix = f"leave it out of the node's env, or set it to {max(1, cores // slots)}"
        return Finding("threads", "warn", message, fix, name)
    counts = {key: int(value) for key, value in told.items()}
    most = max(counts, key=lambda key: counts[key], default="")
    if not most or counts[most] <= 1:
        names = f"{most}=1" + " and others" * (len(counts) > 1)
        message = f"libraries have one thread a slot ({names})" if most else "not told"
        return Finding("threads", "ok", message, None, name)
    message = f"{most}={counts[most]} in each of {slots} slots, on {cores} usable cores"
    if counts[most] * slots <= cores:
        return Finding("threads", "ok", message, None, name)
    fix = f"leave {most} out of the node's env, or give it fewer slots"
    return Finding("threads", "warn", message, fix, name)


def _disk(visit: Visit) -> Finding:
    name, told = visit.node.host, visit.facts
    if not told["writable"]:
        fix = "set CLUSTER_CACHE in the node's env to a folder that can be written"
        return Finding("disk", "bad", f"{told['cache']} cannot be written", fix, name)
    message = f"{told['free'] / 1e9:.1f} GB free for {told['cache']}"
    if told["free"] >= _LEAST_FREE:
        return Finding("disk", "ok", message, None, name)
    fix = "free some, or set CLUSTER_CACHE in the node's env to a folder with room"
    return Finding("disk", "warn", message, fix, name)


def _modules(visit: Visit, entry: Entry) -> Iterator[Finding]:
    """The engine's packages: there, and of the version that is here."""
    name, there = visit.node.host, dict(visit.facts["modules"])
    numba = there.pop("numba", None)
    if numba is None and find_spec("numba"):
        fix = "install numba there; counts are the same without it"
        message = "missing there: kernels that have a numpy twin run as that, slower"
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
        fix = "install the same version there as here"
        status = "bad" if entry.exact else "warn"
        yield Finding(entry.name, status, "; ".join(other), fix, name)
    elif there:
        shown = ", ".join(f"{module} {version}" for module, version in there.items())
        yield Finding(entry.name, "ok", f"{shown}, as here", None, name)


def _ports(visit: Visit, entry: Entry) -> Finding:
    name, routes = visit.node.host, entry.routes
    if not routes:
        message = f"none: backend {entry.name} opens no port, all goes over the ssh connection"
        return Finding("ports", "ok", message, None, name)
    if visit.blocked:
        said = "; ".join(f"{_HOW[route]} {place}: {why}" for route, place, why in visit.blocked)
        fix = (
            f"let TCP through between the hosts and this machine ({entry.name} takes free ports,"
            " from 1024 on; on a node that stands, the one after its own), or take backend ssh,"
            " which needs none"
        )
        return Finding("ports", "bad", said, fix, name)
    if "from" in visit.untried or "to" in visit.untried:
        message = "not tried: it did not answer when it was asked to try them"
        return Finding("ports", "warn", message, "see whether other programs start there", name)
    ways = {"from": "it reaches us", "to": "we reach it", "between": "it reaches the others"}
    message = ", ".join(
        ways[route] for route in ways if route in routes and route not in visit.untried
    )
    where = "on free ports" if visit.node.attach is None else "on the ports that a run takes"
    return Finding("ports", "ok", f"{message} {where}", None, name)


def _twins(visits: Sequence[Visit]) -> Iterator[Finding]:
    """Two names of one machine, whose slots would compete for the same cores."""
    names = defaultdict(list)
    for visit in visits:
        if visit.hello.get("machine"):
            names[visit.hello["machine"]].append(visit.node.host)
    for machine, hosts in names.items():
        if len(hosts) > 1:
            message = f"{' and '.join(hosts)} have the machine-id {machine}: they are one machine"
            fix = "leave one of them out; where they are clones: systemd-machine-id-setup on each"
            yield Finding("machine", "warn", message, fix)


# -- the visit -------------------------------------------------------------------------------------


def visit(nodes: Sequence[Node], work: Work, entry: Entry, options: Options) -> list[Visit]:
    """Visit all hosts at the same time.

    Args:
        nodes: them.
        work: what a run there would draw.
        entry: the backend that would have it drawn.
        options: what it would be told.
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
    """The agents of all hosts, and what they are asked."""

    def __init__(
        self, visits: Sequence[Visit], work: Work, selector: selectors.BaseSelector, reach: Reach
    ) -> None:
        self.visits = {visit.node.host: visit for visit in visits}
        self._selector = selector
        self._fleet = Fleet(
            [_one_slot(visit.node) for visit in visits],
            work,
            selector,
            Patience(beat=_BEAT, ready=_MEET),
            reach=reach,
        )
        self._answers: dict[tuple[str, int], dict[str, Any]] = {}

    def close(self) -> None:
        """End all agents, with what they started."""
        self._fleet.close()

    def hold_to(self, options: Options) -> None:
        """Have the further kernels of a sweep probed, too."""
        self._fleet.hold_to(options.kernels, options.probes, options.probed)

    def meet(self) -> None:
        """Wait until each has an agent, or has none."""
        hosts = self._fleet.hosts.values()
        self._turn(_MEET, lambda: all(map(self._is_settled, hosts)))
        # A probe that is being drawn has a limit of its own.
        self._turn(_MEET, lambda: not self._fleet.deciding)
        for host in hosts:
            seen = self.visits[host.name]
            seen.hello, seen.remark = host.hello, host.remark
            failed = (probe for probe in host.probes.values() if not is_drawn(probe))
            seen.probe = next(failed, host.probes.get(0, ""))
            if not host.ready:
                seen.trouble = host.reason, host.fix

    def ask(self, modules: Sequence[str]) -> None:
        """Have the hosts tell what they have; each listens from then on."""
        asked = {
            host: {"listen": host.hello["address"], "port": _port(host), "modules": modules}
            for host in self._ready()
        }
        for host, answer in self._told(asked).items():
            seen = self.visits[host.name]
            seen.facts = answer
            if host.clock is not None:
                seen.clock = host.clock

    def try_ports(self, routes: Collection[str]) -> None:
        """Try the connections that an engine would make."""
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
        said = reached([self._place(host) for host in hosts])
        for host, why in zip(hosts, said, strict=True):
            self.visits[host.name].untried.discard("to")
            deaf = self.visits[host.name].facts["deaf"]
            if deaf or why:
                address = str(host.hello["address"])
                self.visits[host.name].blocked.append(("to", address, deaf or why))

    def _try_from(self, hosts: Sequence[Host]) -> None:
        ears: dict[str, Ear] = {}
        asked = {}
        for host in hosts:
            address = str(host.hello["dispatcher"])
            try:
                ear = ears[address] = ears.get(address) or Ear(address)
            except OSError as error:
                why = f"{error.strerror}; that is how it sees us (is there a NAT between?)"
                self.visits[host.name].blocked.append(("from", address, why))
            else:
                asked[host] = {"reach": [(address, ear.port, ear.word)]}
        for host, answer in self._told(asked).items():
            self.visits[host.name].untried.discard("from")
            for why in filter(None, answer["reached"]):
                self.visits[host.name].blocked.append(("from", str(host.hello["dispatcher"]), why))
        for ear in ears.values():
            ear.close()

    def _try_between(self, hosts: Sequence[Host]) -> None:
        # What is on this machine has been tried as such.
        remote = [host for host in hosts if not is_here(host.node)]
        others = {host: [other for other in remote if other is not host] for host in remote}
        asked = {host: {"reach": [self._place(other) for other in others[host]]} for host in remote}
        for host, answer in self._told(asked).items():
            self.visits[host.name].untried -= {"between"} if others[host] else set()
            for other, why in zip(others[host], answer["reached"], strict=True):
                if why:
                    self.visits[host.name].blocked.append(("between", other.name, why))

    def _place(self, host: Host) -> tuple[str, int, str]:
        told = self.visits[host.name].facts
        return str(host.hello["address"]), int(told["port"]), str(told.get("word"))

    # -- the agents -------------------------------------------------------------------------------

    def _ready(self) -> list[Host]:
        """Those that can be asked."""
        hosts = self._fleet.hosts.values()
        return [host for host in hosts if host.ready and not self.visits[host.name].foreign]

    @staticmethod
    def _is_settled(host: Host) -> bool:
        """It has an agent, or the first attempt to have one is over."""
        over = host.standing is HostState.AWAY and host.born
        return bool(host.ready or over or host.standing is HostState.REFUSED)

    def _told(self, asked: Mapping[Host, Any]) -> dict[Host, dict[str, Any]]:
        """What the hosts answer to a question each; those that do not are left out."""
        started = {
            host: (host.name, host.start_module(_THERE, question))
            for host, question in asked.items()
        }
        self._fleet.send()
        self._turn(
            _ANSWER,
            lambda: all(key in self._answers or not h.ready for h, key in started.items()),
        )
        return {h: self._answers[key] for h, key in started.items() if self._answers.get(key)}

    def _turn(self, seconds: float, done: Callable[[], bool]) -> None:
        """See to the agents until it is done, or time is over."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            for host, change, message in self._fleet.tend():
                if change is Change.TOLD and isinstance(message, dict):
                    self._hear(host, message)
            self._fleet.send()
            for key, mask in self._selector.select(_TICK):
                key.data(mask)

    def _hear(self, host: Host, message: dict[str, Any]) -> None:
        if "said" in message:
            self._answers[host.name, message["said"]] = message["message"]
        elif "exited" in message:
            self._answers.setdefault((host.name, message["exited"]), {})


def _one_slot(node: Node) -> Node:
    """One worker is enough to see whether the kernel runs there."""
    return replace(node, slots=1)


def _port(host: Host) -> int:
    """Where a run would have its process listen there; 0 is any that is free."""
    return 0 if host.node.attach is None else host.node.attach + 1
