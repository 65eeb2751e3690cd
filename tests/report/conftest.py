"""The pages of reports hold commands; here they are those of an installed program."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """``cluster`` is what the shell finds."""
    monkeypatch.setattr("cluster.common.commands._program", lambda: ["cluster"])
