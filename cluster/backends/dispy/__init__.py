"""The backend ``dispy``; nothing here imports dispy but the driver and what runs on the hosts."""

from __future__ import annotations

from cluster.backends.dispy.engine import Engine

__all__ = ["Engine"]
