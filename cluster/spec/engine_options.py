"""The key ``backend``, and the sections of engines: options under the name of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, create_model, model_validator

from cluster.common import engines
from cluster.common.engines import Entry, Option
from cluster.common.secret import Secret
from cluster.spec.hosts import Context, Frozen, HostRule
from cluster.spec.values import Choice, Duration, Flag, Folder, Number, Rule, Text, Whole, fault

_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


class EngineName(HostRule):
    """The name of an installed engine, built-in or from another distribution."""

    def check_in(self, value: Any, context: Context) -> str:
        """The name; that of a recorded run is accepted even if its engine is gone.

        Raises:
            PydanticCustomError: no such engine is known.
        """
        name = Text().check(value)
        if name not in context.engines and engines.entry(name) is None:
            Choice(names=engines.names(), what="backend").judge(name)
        return name

    def schema(self) -> dict[str, Any]:
        """The built-in engines; ``cluster.spec.reference`` replaces them by those installed."""
        return {"enum": [entry.name for entry in engines.built_in()]}


class SecretPlace(Frozen):
    """Where a secret is stored: give one of the two."""

    env: Annotated[str, Text(_VARIABLE, "the name of a variable")] | None = Field(
        default=None, description="The environment variable that holds the secret."
    )
    file: Annotated[str, Folder(form="a file, without $ and ~")] | None = Field(
        default=None,
        description="The file that holds the secret, relative to the spec; it must have mode 0600.",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.env is None) is (self.file is None):
            raise fault("must name one place", "write {env: NAME} or {file: PATH}")
        return self


_RULES: Mapping[str, Callable[[Option], Rule]] = {
    "text": lambda _option: Text(),
    "whole": lambda _option: Whole(0),
    "number": lambda _option: Number(),
    "time": lambda _option: Duration(),
    "flag": lambda _option: Flag(),
    "choice": lambda option: Choice(names=option.choices, what=option.name),
    "file": lambda _option: Folder(form="a file, without $ and ~"),
}


@cache
def options_model(entry: Entry) -> type[Frozen]:
    """The pydantic model of the options of an engine."""
    fields: dict[str, Any] = {}
    for option in entry.options:
        kind = (
            SecretPlace if option.kind == "secret" else Annotated[Any, _RULES[option.kind](option)]
        )
        # Without a default the option may be left out, and is None then.
        taken = kind if option.default is not None else kind | None
        fields[option.name] = taken, Field(option.default, description=option.description)
    made: type[Frozen] = create_model(f"Options of {entry.name}", __base__=Frozen, **fields)
    made.__doc__ = entry.about
    return made


def resolved(entry: Entry, given: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """All options of an engine, with their defaults, in the form that the engine gets.

    Args:
        entry: the engine.
        given: its section of a spec.
        base: the folder that the spec's paths are relative to.

    Raises:
        ValidationError: the section is not valid.
    """
    form = options_model(entry).model_validate(dict(given))
    return {each.name: _converted(each, getattr(form, each.name), base) for each in entry.options}


def _converted(option: Option, value: Any, base: Path) -> Any:
    if value is None:
        return None
    if option.kind == "file":
        return str(base / value)
    if option.kind == "secret":
        return Secret(value.env, str(base / value.file) if value.file else None)
    return value


def with_options(entries: Iterable[Entry]) -> Mapping[str, Entry]:
    """The engines that have options, by name."""
    return {entry.name: entry for entry in entries if entry.options}
