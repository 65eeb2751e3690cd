"""The version of this package, where every room can import it without the doors above it."""

from __future__ import annotations

__version__ = "0.1.0"
