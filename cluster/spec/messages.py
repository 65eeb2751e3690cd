"""Messages for users in place of pydantic's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cluster.common.errors import did_you_mean
from cluster.spec.values import OURS, show


class Message(NamedTuple):
    """What is reported for one error.

    Attributes:
        message: what is wrong.
        fix: how to fix it, or None.
        at_key: whether to point at the key, and not at its value.
        column: 0-based offset inside a text, or None.
    """

    message: str
    fix: str | None = None
    at_key: bool = False
    column: int | None = None


def wording(detail: Mapping[str, Any], known: Sequence[str]) -> Message:
    """Our message for one error of pydantic.

    Args:
        detail: an element of ``ValidationError.errors()``.
        known: the keys that the surrounding mapping may have.
    """
    kind = detail["type"]
    if kind == OURS:  # a rule's own error, see cluster.spec.values.fault
        context = detail["ctx"]
        return Message(**context)
    if kind == "missing":
        return Message("this required key is missing")
    if kind == "extra_forbidden":
        return _unknown(str(detail["loc"][-1]), known)
    if detail["loc"] == ("include",) and str(detail["input"]).endswith((".yaml", ".yml")):
        return Message("lists files that the kernel imports, not other specs", _ALONE)
    if kind in _SHAPES:
        return Message(f"must be {_SHAPES[kind]}, got {show(detail['input'])}", _FIXES[kind])
    return Message(f"is not valid, got {show(detail['input'])}")


_SHAPES = {"model_type": "a mapping", "tuple_type": "a list"}
_FIXES = {"model_type": "write it as key: value", "tuple_type": "write it as [a, b]"}
# Keys by which other formats include a file.
_PARENTS = frozenset({"extends", "extend", "import", "imports", "inherit", "inherits"})
_ALONE = "a spec has all of its keys in one file; --set KEY=VALUE changes one for a run"


def _unknown(key: str, known: Sequence[str]) -> Message:
    if key in _PARENTS:
        return Message("unknown key", _ALONE, at_key=True)
    guess = did_you_mean(key, known)
    return Message("unknown key", guess or f"the keys here are {', '.join(known)}", at_key=True)
