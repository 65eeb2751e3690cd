"""Distributions of somebody else that register an engine, as an installer leaves them."""

from __future__ import annotations

from pathlib import Path

#: An engine that does its work as one of ours does; only its registration is its own.
ENGINE = """
from cluster.backends.base import Entry, Option
from cluster.backends.{of} import Engine as Ours

ENTRY = Entry("{name}", "an engine of somebody else", kind="{kind}"{more})

class Engine(Ours):
    pass
"""


def engine(name: str, of: str = "serial", kind: str = "in_process", more: str = "") -> str:
    """The text of a module with an engine of that name."""
    return ENGINE.format(name=name, of=of, kind=kind, more=more)


def install(folder: Path, module: str, text: str | None, *points: str, package: str = "") -> None:
    """Put a module, and the metadata of a distribution that registers it, into a folder.

    Args:
        folder: one that Python looks through.
        module: its name.
        text: what it holds; None: there is no such file.
        points: lines of the entry point group, such as ``name = module:Engine``.
        package: name of the distribution; without it, the module's.
    """
    if text is not None:
        (folder / f"{module}.py").write_text(text)
    name = package or module
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join(["[cluster.backends]", *points, ""]))
