"""One thing that was looked at."""

from __future__ import annotations

from typing import Any, NamedTuple


class Finding(NamedTuple):
    """One check: ``ok``, ``warn`` or ``bad``, what was seen, and what to do about it.

    ``host``: of the spec, where it is about one; None: this machine, or all.
    """

    check: str
    status: str
    message: str
    fix: str | None = None
    host: str | None = None

    @property
    def bad(self) -> bool:
        """Whether a run would fail of it."""
        return self.status == "bad"

    def to_json(self) -> dict[str, Any]:
        """The object of the list of findings."""
        return self._asdict()
