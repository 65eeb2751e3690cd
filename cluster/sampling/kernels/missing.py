"""Advice on files and modules that a kernel needs and that are missing on a worker."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

# For files that are not text: a frozen kernel is stored and sent as JSON.
DATA = (
    "only text is frozen with a kernel (include): put other data where every host has it, and "
    "give its absolute path as a parameter"
)
# A path in the folder of an unpacked kernel, as error messages quote it.
_UNPACKED = re.compile(r"[0-9a-f]{64}/([^'\"\n]+?)(?: not found\b|['\"]|$)", re.MULTILINE)
_MAX_LISTED = 8


def cure_of(error: BaseException | None, home: Path) -> str | None:
    """What the user can do about a file or module that an import did not find, or None.

    Args:
        error: what the import raised.
        home: the folder of the kernel's file on this machine.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _of_module(error.name.partition(".")[0], home)
    return _of_file(error, home) if isinstance(error, FileNotFoundError) else None


def include(names: list[str]) -> str:
    """The line of a spec that freezes these files with the kernel."""
    more = ", ..." if len(names) > _MAX_LISTED else ""
    return f"include: [{', '.join(names[:_MAX_LISTED])}{more}]"


def files_of(package: Path) -> list[str]:
    """The Python files of a package, as ``include`` names them."""
    return sorted(str(path.relative_to(package.parent)) for path in package.rglob("*.py"))


def _of_module(name: str, home: Path) -> str:
    for folder in dict.fromkeys((home, *home.resolve().parents[:2], Path.cwd())):
        if (folder / f"{name}.py").is_file() or (folder / name).is_dir():
            what = name if (folder / name).is_dir() else f"{name}.py"
            listed = files_of(folder / name) or [f"{name}.py"]
            move = f"move {folder / what} to {home / what} and write {include(listed)}"
            only = "only files below the kernel's folder can be frozen with it"
            return f"{only}: {move}, or install it here and on every host"
    return f"install {name} here and on every host, for the Python that runs there"


def _of_file(error: FileNotFoundError, home: Path) -> str | None:
    named = error.filename if isinstance(error.filename, str) else str(error)
    found = _UNPACKED.search(named)
    relative = PurePath(found[1] if found else named)
    try:
        content = (home / relative).read_bytes()
    except (OSError, ValueError):
        return None
    if relative.is_absolute() or not _is_text(content):
        return DATA
    opened = "" if found else f", and open Path(__file__).parent / {str(relative)!r}"
    return f"add it to the spec: {include([str(relative)])}{opened}"


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
