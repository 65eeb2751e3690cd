"""The pause before the next attempt, and how late a peer is."""

from __future__ import annotations

import time

import pytest

from cluster.common.backoff import ListeningClock, backoff


def test_pauses_double_up_to_the_longest_after_any_number_of_failures() -> None:
    """After thousands of failures the pause is still the longest one, without overflow."""
    assert [backoff(n, 1.0, 15.0) for n in range(6)] == [1, 2, 4, 8, 15, 15]
    assert backoff(100_000, 1.0, 15.0) == 15


def test_nobody_is_late_while_the_listener_itself_is_held_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An hour's stall counts as one long turn; turns of a second count as they are."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    attention = ListeningClock()
    begun = attention.now
    for _ in range(10):
        now += 1.0
        attention.look()
    assert attention.now - begun == pytest.approx(10)
    now += 3600
    assert attention.look() - begun == pytest.approx(12)
    assert attention.look() - begun == pytest.approx(12)
