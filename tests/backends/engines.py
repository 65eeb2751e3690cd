"""Engines of this machine, made with two slots, and which engine is tried in which run."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from _pytest.mark import ParameterSet

from cluster.backends.base import TABLE, Backend, Options, create
from cluster.hosts.nodes import Node

HOSTED = tuple(entry.name for entry in TABLE if entry.hosted)


def parameters(
    names: Collection[str], default: Collection[str], slow: Collection[str] | None = None
) -> list[ParameterSet]:
    """Engines as parameters of a test, each with the mark of the run that tries it.

    What engines share is tested in full with one of each kind, so that a new engine costs the slow
    run its own suite and little more; the others are asked the same in a soak.

    Args:
        names: of the engines.
        default: those that the default run tries.
        slow: those that the slow run tries; None: all others.
    """

    def marks(name: str) -> Collection[pytest.MarkDecorator]:
        if name in default:
            return ()
        return (pytest.mark.slow if slow is None or name in slow else pytest.mark.soak,)

    return [pytest.param(name, marks=marks(name)) for name in names]


def engine(name: str, slots: int = 2, options: Options | None = None) -> Backend:
    """The engine of that name, on this machine."""
    return create(name, (Node("localhost", slots=slots),), options)


def serial() -> Backend:
    """The plain baseline."""
    return engine("serial", 1)


def processes() -> Backend:
    """Two worker processes."""
    return engine("processes")
