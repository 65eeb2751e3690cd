"""Engines of this machine, made with two slots."""

from __future__ import annotations

from cluster.backends.base import Backend, Options, create
from cluster.hosts.nodes import Node


def engine(name: str, slots: int = 2, options: Options | None = None) -> Backend:
    """The engine of that name, on this machine."""
    return create(name, (Node("localhost", slots=slots),), options)


def serial() -> Backend:
    """The plain baseline."""
    return engine("serial", 1)


def processes() -> Backend:
    """Two worker processes."""
    return engine("processes")
