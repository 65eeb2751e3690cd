"""The outcome of one check."""

from __future__ import annotations

from typing import Any, NamedTuple


class Finding(NamedTuple):
    """The outcome of one check.

    Attributes:
        check: its name.
        status: ``ok``, ``warn`` or ``bad``.
        message: what was found.
        fix: what to do about it, or None.
        host: the host of the spec that it concerns; None: this machine, or all hosts.
    """

    check: str
    status: str
    message: str
    fix: str | None = None
    host: str | None = None

    @property
    def bad(self) -> bool:
        """Whether it would make a run fail."""
        return self.status == "bad"

    def to_json(self) -> dict[str, Any]:
        """Its object in the JSON list of findings."""
        return self._asdict()
