"""Reading a spec from a file or a text."""

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
        path: the YAML file; errors name it as it is given here. ``-`` is standard input. Paths in
            a spec from a pipe are relative to the working directory.
        overrides: texts of the form ``key=value``, as after ``--set``.

    Raises:
        SpecError: all problems at once, sorted by position.
    """
    base = Path() if is_stream(path) else Path(path).parent
    return parse(text_of(path), str(path), base, overrides)


def text_of(path: str | Path) -> bytes:
    """The content of a spec's file or pipe, up to the size limit and one byte more.

    Raises:
        SpecError: it cannot be read.
    """
    file = Path(path)
    try:
        # Standard input may be a socket, which cannot be opened by name.
        with open(0, "rb", closefd=False) if str(path) in _INPUT else file.open("rb") as stream:
            # The extra byte shows that the file is too long; a device might never end.
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise SpecError([_unreadable(file, str(path), error)]) from None


def is_stream(path: str | Path) -> bool:
    """Whether a spec comes from a pipe: it can be read only once, and has no folder."""
    if _DESCRIPTOR.fullmatch(str(path)):
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


_INPUT = ("-", "/dev/stdin")
# By name, since /dev/stdin may lead to a regular file that the shell has opened.
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
        file: what errors call it.
        base: the folder that the kernel and host files are relative to.
        overrides: texts of the form ``key=value``, as after ``--set``.
        environ: where ``auto`` finds the variables of Slurm and PBS.

    Raises:
        SpecError: all problems at once, sorted by position.
    """
    return Spec.read(read(text), SpecOrigin(file, base, environ=environ, written=True), overrides)


def hosts_of(texts: Sequence[str], option: str) -> tuple[Node, ...]:
    """Parse host entries from the command line.

    Args:
        texts: entries as in ``nodes``: a text, or a mapping as ``{host: n1, slots: 4}``; host
            files are relative to the working directory.
        option: the option that they were given with, for errors.

    Raises:
        UsageError: an entry is not valid, or a host is given twice.
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
    """The keys of one host, validated like those of a spec."""
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
