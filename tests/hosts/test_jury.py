"""What the hosts of a run are held to, whoever draws a probe first."""

from __future__ import annotations

from itertools import permutations

import pytest

from cluster.hosts.connect.jury import Fit, Jury, on
from cluster.hosts.fingerprint import failed

A, B, C, NONE = "{a}", "{b}", "{c}", failed("OSError: no licence here")
F, D, X, U = Fit.FITS, Fit.DIFFERS, Fit.FAILS, Fit.DISPUTED


@pytest.mark.parametrize(
    ("recorded", "own", "hosts", "fits"),
    [
        (None, A, (A, B), (F, D)),  # the dispatcher's own draw tells which of two is right
        (None, A, (A, B, B), (F, D, D)),  # also against more
        (None, A, (B, B), (F, F)),  # two that agree outvote a dispatcher of another kind
        (None, A, (B, B, C), (D, D, D)),  # two of four do not
        (None, A, (B,), (D,)),  # nor does one
        (None, A, (B, C), (D, D)),
        (None, A, (NONE, A), (X, F)),
        (None, A, (NONE, NONE), (X, X)),
        (None, NONE, (B,), (F,)),  # nobody contradicts it
        (None, NONE, (A, A, B), (F, F, D)),
        (None, NONE, (A, B), (U, U)),  # two that differ with nobody to judge: neither
        (None, NONE, (A, B, NONE), (U, U, X)),
        (None, NONE, (A, A, B, B), (U, U, U, U)),
        (None, NONE, (NONE, NONE), (F, F)),  # its blocks will tell why
        (C, A, (A, C), (D, F)),  # what the run was begun with wins over all
        (C, A, (A, A), (D, D)),
    ],
)
def test_who_is_used_does_not_depend_on_who_came_first(
    recorded: str | None, own: str, hosts: tuple[str, ...], fits: tuple[Fit, ...]
) -> None:
    """Whoever is accepted at once, in any order of all, is one whom the whole jury accepts."""
    wanted = dict(enumerate(fits))
    for order in permutations(range(len(hosts))):
        told: list[object] = []
        jury = Jury([recorded], lambda *each, told=told: told.append(each))
        jury.own[0] = own
        found: dict[int, Fit] = {}
        for place in [*order, *order]:  # who waits is asked again when all have drawn
            jury.hear(str(place), 0, hosts[place])
            verdict = jury.verdict(0, hosts[place], len(jury._drawn[0]) == len(hosts))
            if verdict.fit is F:
                jury.confirm(0, hosts[place])
            if verdict.fit is not Fit.WAITS:
                found.setdefault(place, verdict.fit)
        assert found == wanted
        right = {hosts[place] for place, fit in wanted.items() if fit is F} - {NONE}
        assert told == [(0, probe) for probe in right if recorded is None]


def test_nobody_is_judged_before_the_dispatcher_has_drawn() -> None:
    """Nor, where it could not, before the others have."""
    jury = Jury()
    jury.hear("h1", 0, A)
    assert jury.verdict(0, A, complete=True).fit is Fit.WAITS
    jury.own[0] = NONE
    assert jury.verdict(0, A, complete=False).fit is Fit.WAITS
    assert jury.verdict(0, A, complete=True).fit is F


def test_where_the_dispatcher_is_outvoted_it_is_told() -> None:
    """And nothing is told where it agrees."""
    for own, words in ((A, ""), (B, "which agree"), (NONE, "no licence here")):
        jury = Jury()
        jury.own[0] = own
        for name in ("h1", "h2"):
            jury.hear(name, 0, A)
        jury.confirm(0, A)
        assert (words in jury.remark(0)) if words else not jury.remark(0)


def test_hosts_are_listed_in_words() -> None:
    """Not all of a hundred."""
    assert on(["h2", "h1"]) == "on h1 and h2"
    assert on(["h1"]) == "on h1"
    assert on([f"h{n}" for n in range(9)]) == "on h0, h1, h2 and 6 more"
