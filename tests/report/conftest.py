"""The pages of reports hold commands; here they are those of an installed program."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.conftest import need

PROGRAMS = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """``cluster`` is what the shell finds."""
    need((PROGRAMS / "cluster").exists(), "the installed command: pip install -e .")
    monkeypatch.setenv("PATH", f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}")
