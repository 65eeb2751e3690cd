"""The doors of the room: a file or a text to a spec."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.common.errors import Problem, SpecError, UsageError, did_you_mean, shortened
from cluster.hosts.nodes import HostCollection, Node, NodeError, parse_entry
from cluster.spec.hosts import NodeForm
from cluster.spec.judge import SpecOrigin
from cluster.spec.messages import wording
from cluster.spec.model import Spec
from cluster.spec.syntax import MAX_BYTES
from cluster.spec.yaml12 import read


def load(path: str | Path, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec from its file.

    Args:
        path: the YAML file; errors name it as it is written here. ``-`` is standard input; what
            is in it, or in any other pipe, is relative to the working directory.
        overrides: texts of the form ``key=value``, as after ``--set``.

    Raises:
        SpecError: every problem at once, in order of place.
    """
    base = Path() if is_stream(path) else Path(path).parent
    return parse(text_of(path), str(path), base, overrides)


def text_of(path: str | Path) -> bytes:
    """What a spec's file, or a pipe in its place, holds.

    Raises:
        SpecError: it cannot be read.
    """
    file = Path(path)
    try:
        # Standard input may be a socket, which has no name to open.
        with open(0, "rb", closefd=False) if str(path) in _INPUT else file.open("rb") as stream:
            # One byte more tells that it is too long; a device would be read for ever.
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise SpecError([_unreadable(file, str(path), error)]) from None


def is_stream(path: str | Path) -> bool:
    """Whether a spec is piped in: it can be read once, and lies in no folder of its own."""
    if _DESCRIPTOR.fullmatch(str(path)):
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


_INPUT = ("-", "/dev/stdin")
_DESCRIPTOR = re.compile(r"-|/dev/(?:stdin|fd/\d+)|/proc/(?:self|thread-self|\d+)/fd/\d+")


def parse(
    text: str | bytes,
    file: str,
    base: Path,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Spec:
    """Read a spec from its text.

    Args:
        text: YAML; bytes must be UTF-8.
        file: the name that errors give to it.
        base: the folder that the kernel and host files are relative to.
        overrides: texts of the form ``key=value``, as after ``--set``.
        environ: where ``auto`` finds the variables of Slurm and PBS.

    Raises:
        SpecError: every problem at once, in order of place.
    """
    return Spec.read(read(text), SpecOrigin(file, base, environ=environ, written=True), overrides)


def hosts_of(texts: Sequence[str], option: str) -> tuple[Node, ...]:
    """The hosts of entries as ``nodes`` has them: texts, or a mapping in YAML.

    Args:
        texts: the entries; host files are relative to the working directory.
        option: that they stand behind; it is named in errors.

    Raises:
        UsageError: one that is not right, or a host that stands twice.
    """
    roster = HostCollection()
    for index, text in enumerate(texts):
        try:
            entry: Any = _mapping(text) if text.lstrip().startswith("{") else text
            roster.add(index, parse_entry(entry, Path(), os.environ, roster.room))
        except NodeError as error:
            error.entry = None
            raise UsageError(shortened(f"{option} {text!r}: {error}")) from None
    return tuple(roster.nodes)


def _mapping(text: str) -> dict[str, Any]:
    """The keys of one host, judged as those of a spec."""
    document = read(text, "value")
    for finding in document.findings:
        raise NodeError(finding.message, fix=finding.fix)
    try:
        form = NodeForm.model_validate(document.data)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        words = wording(detail, list(NodeForm.model_fields))
        key = ".".join(map(str, detail["loc"]))
        raise NodeError(words.message, fix=words.fix, key=key) from None
    return {key: getattr(form, key) for key in form.model_fields_set}


def _unreadable(file: Path, shown: str, error: Exception) -> Problem:
    reason = getattr(error, "strerror", None) or str(error)
    fix = _nearest(file) if isinstance(error, FileNotFoundError) else None
    return Problem(shown, 0, 0, "", f"cannot read the spec: {reason}", fix)


def _nearest(file: Path) -> str | None:
    try:
        return did_you_mean(file.name, [each.name for each in file.parent.glob("*.y*ml")])
    except OSError:
        return None
