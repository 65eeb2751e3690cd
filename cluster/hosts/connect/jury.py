"""Chooses the reference that the hosts' probes of a kernel are compared with.

It is never simply the first result. A result that an earlier start of the run recorded comes first.
Otherwise it is the dispatcher's own, once a host agrees with it. If none does, it is the result of
more than half of all, the dispatcher included; and without such a majority, the dispatcher's. Hosts
that differ from the reference are not used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from enum import Enum
from typing import NamedTuple

from cluster.hosts.fingerprint import IMPURE, is_drawn

_HERE = "here"
_MOST_NAMES = 3
Probed = Callable[[int, str], object]


class Fit(Enum):
    """How a host's probe compares with the reference."""

    WAITS = "others have not drawn yet, and may tell"
    FITS = "it came out as it should"
    DIFFERS = "it came out differently"
    FAILS = "it failed, and did not elsewhere"
    DISPUTED = "hosts differ, and nobody tells which is right"


class Verdict(NamedTuple):
    """The judgement of a host's probe.

    Attributes:
        fit: how it compares with the reference.
        where: who has another result, for people.
    """

    fit: Fit
    where: str = ""


def difference(name: str, verdict: Verdict, same: bool, here: bool) -> tuple[str, str]:
    """Why a host is refused for the result of a probe, and the fix.

    Args:
        name: of the kernel, with a leading space; empty if the run has only one.
        verdict: DIFFERS or DISPUTED.
        same: a second draw gave the same result as the first.
        here: the host is this machine.
    """
    few = f"a few samples of the kernel{name} came out differently there"
    if not same:
        words = f"{few} when they were drawn a second time: {IMPURE}"
        return words, "have it draw from the generator that it is given alone, then submit it again"
    if verdict.fit is Fit.DISPUTED:
        words = f"{few} than {verdict.where}, and nothing tells which is right: neither is used"
        return words, "name a further host, which tells; or leave out all but those of one kind"
    what = "other libraries, or another environment"
    why = what if here else "another type of CPU, or other libraries"
    fix = "leave the host out, or run the kernel only on hosts of its kind"
    if verdict.where == _HERE:
        fix += "; two such hosts that agree outvote this machine"
    return f"{few} than {verdict.where} ({why})", fix


class Jury:
    """The results of the probes of a run's kernels on all hosts, by the kernels' numbers.

    Args:
        recorded: each kernel's reference, as recorded at the run's first start; None: none.
        tell: called once for each kernel with the reference that is to be recorded.

    Attributes:
        own: the results on this machine.
    """

    def __init__(self, recorded: Sequence[str | None] = (), tell: Probed | None = None) -> None:
        begun = {number: probe for number, probe in enumerate(recorded) if probe is not None}
        self.own: dict[int, str] = {}
        self._tell = tell
        self._known = {number: ("where the run was begun", begun[number]) for number in begun}
        self._drawn: dict[int, dict[str, str]] = {}

    def is_known(self, number: int) -> bool:
        """Whether the reference of a kernel is settled."""
        return number in self._known

    def hear(self, name: str, number: int, probe: str) -> None:
        """Record a host's result.

        Args:
            name: of the host; a later result under the same name replaces it.
            number: of the kernel.
            probe: the result, or how it failed.
        """
        self._drawn.setdefault(number, {})[name] = probe

    def verdict(self, number: int, probe: str, complete: bool) -> Verdict:
        """Judge a host's result.

        Args:
            number: of the kernel.
            probe: the result.
            complete: no other host's result is awaited.
        """
        held = self._held_to(number, complete)
        if held is not None:
            where, known = held
            if probe == known:
                return Verdict(Fit.FITS)
            return Verdict(Fit.DIFFERS if is_drawn(probe) else Fit.FAILS, where)
        if not complete or number not in self.own:
            return Verdict(Fit.WAITS)
        names = [name for name, other in self._votes(number).items() if other != probe]
        if not names:  # the probe fails everywhere: the errors of the blocks will explain it
            return Verdict(Fit.FITS)
        return Verdict(Fit.DISPUTED if is_drawn(probe) else Fit.FAILS, on(names))

    def confirm(self, number: int, probe: str) -> None:
        """Settle the reference, as a host was accepted with it; later starts use it as well.

        Args:
            number: of the kernel.
            probe: the accepted host's result.
        """
        held = self._held_to(number, True)
        if number not in self._known and held is not None and held[1] == probe:
            self._known[number] = held
            if self._tell is not None:
                self._tell(number, probe)

    def remark(self, number: int) -> str:
        """A message about how the reference was chosen, for people; usually empty."""
        own = self.own.get(number)
        if own is None or (number in self._known and self._known[number][1] == own):
            return ""
        if not is_drawn(own):
            return f"here the kernel {own}; so hosts were held to what most of them drew"
        return (
            "here a few samples of the kernel came out differently than on the hosts, which agree:"
            " what they drew is believed (this machine has another type of CPU, or other libraries)"
        )

    def _held_to(self, number: int, complete: bool) -> tuple[str, str] | None:
        if number in self._known:
            return self._known[number]
        if number not in self.own:
            return None
        own, votes = self.own[number], self._votes(number)
        # Our own result is the reference as soon as one host agrees, whatever others draw later.
        if is_drawn(own) and (own in votes.values() or (complete and not votes)):
            return _HERE, own
        if not complete:
            return None
        # A majority of all results, ours included: two equal hosts outvote this machine, which may
        # rightly have another type of CPU; one host does not.
        (most, count), *_ = Counter(votes.values()).most_common(1) or [("", 0)]
        if 2 * count > len(votes) + is_drawn(own):
            return on([name for name in votes if votes[name] == most]), most
        return (_HERE, own) if is_drawn(own) else None

    def _votes(self, number: int) -> dict[str, str]:
        drawn = self._drawn.get(number, {})
        return {name: probe for name, probe in drawn.items() if is_drawn(probe)}


def on(names: Collection[str]) -> str:
    """``on h1, h2 and h3``: host names as text, of which a few are named."""
    first, rest = sorted(names)[:_MOST_NAMES], len(names) - _MOST_NAMES
    words = [*first, *([f"{rest} more"] if rest > 0 else [])]
    return "on " + " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
