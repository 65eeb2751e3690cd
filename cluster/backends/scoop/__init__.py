"""The backend ``scoop``; nothing here imports scoop but the driver and what runs on the hosts."""

from __future__ import annotations

from cluster.backends.scoop.engine import Engine

__all__ = ["Engine"]
