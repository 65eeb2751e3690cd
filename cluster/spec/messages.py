"""pydantic's findings in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cluster.common.errors import did_you_mean
from cluster.spec.values import OURS, show


class Message(NamedTuple):
    """What is said of one finding."""

    message: str
    fix: str | None = None
    at_key: bool = False
    column: int | None = None


def wording(detail: Mapping[str, Any], known: Sequence[str]) -> Message:
    """Our words for one finding of pydantic.

    Args:
        detail: as ``ValidationError.errors()`` gives it.
        known: the keys that the mapping around it may have.
    """
    kind = detail["type"]
    if kind == OURS:
        context = detail["ctx"]
        return Message(**context)
    if kind == "missing":
        return Message("this key is needed, and missing")
    if kind == "extra_forbidden":
        return _unknown(str(detail["loc"][-1]), known)
    if detail["loc"] == ("include",) and str(detail["input"]).endswith((".yaml", ".yml")):
        return Message("lists files that the kernel imports, and takes no spec", _ALONE)
    if kind in _SHAPES:
        return Message(f"must be {_SHAPES[kind]}, got {show(detail['input'])}", _FIXES[kind])
    return Message(f"is not valid, got {show(detail['input'])}")


_SHAPES = {"model_type": "a mapping", "tuple_type": "a list"}
_FIXES = {"model_type": "write it as key: value", "tuple_type": "write it as [a, b]"}
# What other formats call another file whose keys count here as well.
_PARENTS = frozenset({"extends", "extend", "import", "imports", "inherit", "inherits"})
_ALONE = "a spec holds all of its keys itself, and --set KEY=VALUE changes one for a run"


def _unknown(key: str, known: Sequence[str]) -> Message:
    if key in _PARENTS:
        return Message("unknown key", _ALONE, at_key=True)
    guess = did_you_mean(key, known)
    return Message("unknown key", guess or f"the keys here are {', '.join(known)}", at_key=True)
