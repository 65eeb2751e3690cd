"""The version check: the backend uses SCOOP's internals, and refuses any version but one."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

VERSION = "0.7.2.0"


def refusal() -> tuple[str, str]:
    """Why the SCOOP of this Python cannot be used, and the fix; two empty texts if it can."""
    fix = f"{sys.executable} -m pip install scoop=={VERSION}"
    try:
        found = version("scoop")
    except PackageNotFoundError:
        return "SCOOP is not installed for its Python", fix
    if found != VERSION:
        return f"it has SCOOP {found}; the backend scoop works with {VERSION} alone", fix
    return "", ""
