"""Validation: from a YAML document to a spec, or to all of its problems at once."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as Folder
from typing import Any, NamedTuple, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from cluster.common.engines import built_in, options
from cluster.common.errors import KernelError, Problem, SpecError
from cluster.sampling.kernels import form_of, functions
from cluster.sampling.kernels.text import read
from cluster.sampling.tally import MEASURES
from cluster.spec.bare import bare_secrets
from cluster.spec.engine_options import options_model, with_options
from cluster.spec.hosts import Context, DefaultsForm, NodeForm, NodesForm
from cluster.spec.messages import wording
from cluster.spec.overrides import apply
from cluster.spec.source import SpecSource, join
from cluster.spec.values import ReadOnly, number, show
from cluster.spec.yaml12 import Document, Path

# Keys for which null is a value; any other key without a value is taken for an unfinished line.
NULLABLE = frozenset({"attempts", "seed", "slots"})

Model = TypeVar("Model", bound=BaseModel)


# The sections of engines by name, validated but otherwise as in the spec.
OwnOptions = Mapping[str, Mapping[str, Any]]


class SpecOrigin(NamedTuple):
    """Where a spec comes from.

    Attributes:
        file, base: its file, and the folder of that.
        overrides: those that are already part of the document.
        environ: the environment, for host lists.
        written: whether a user wrote it just now. A spec from a ledger skips the check for bare
            secrets: it was accepted once, and must stay readable.
        engines: engines that a recorded spec names, which may no longer be installed.
    """

    file: str
    base: Folder
    overrides: tuple[str, ...] = ()
    environ: Mapping[str, str] = os.environ
    written: bool = False
    engines: frozenset[str] = frozenset()


def judge(
    model: type[Model], document: Document, origin: SpecOrigin, changes: Sequence[str] = ()
) -> tuple[Model, SpecSource, OwnOptions]:
    """Validate a document against a model.

    Args:
        model: of the spec.
        document: what was read; its data is changed in place.
        origin: where it comes from.
        changes: further ``key=value`` overrides to apply first.

    Returns:
        The instance, its source, and the sections of engines.

    Raises:
        SpecError: all problems of the text, the overrides and the values.
    """
    file, base, earlier, environ, written, engines = origin
    data, values, keys, findings, broken = document
    source = SpecSource(file, base, (*earlier, *changes), data, values, keys)
    problems = [source.finding(found) for found in findings]
    if not isinstance(data, dict):
        problems += [] if problems else [_no_mapping(source)]
        raise SpecError(problems)
    applied = apply(data, changes, keys_at(model, ()))
    source = source.with_overridden(applied.paths)
    problems += [*applied.problems, *_nulls(source, broken), *_goal(model, source)]
    problems += _set_and_swept(data, applied.paths, source)
    # A recorded spec is checked for secrets only if an override changes notify.
    if written or any(path[:1] == ("notify",) for path in applied.paths):
        problems += _bare_secrets(source)
    own = _own_options(model, data, engines)
    # A name in the document takes precedence over that of the file.
    named = {"name": _name_of(file), **{key: data[key] for key in data if key not in own}}
    for name, given in own.items():
        if entry := options([name]).get(name):
            problems += _checked(options_model(entry), given, (name,), source, model, broken)
    try:
        instance = model.model_validate(named, context=Context(base, environ, engines))
    except ValidationError as error:
        raise SpecError([*problems, *_problems(error, (), source, model, broken)]) from None
    if problems:
        raise SpecError(problems)
    return instance, source, ReadOnly(own)


def _own_options(
    model: type[BaseModel], data: Mapping[str, Any], known: frozenset[str]
) -> dict[str, Any]:
    """The keys of a spec that are sections of engines."""
    further = [key for key in data if key not in model.model_fields]
    return {key: data[key] for key in further if key in known or options([key])}


def _checked(
    form: type[BaseModel],
    given: Any,
    path: Path,
    source: SpecSource,
    model: type[BaseModel],
    broken: set[Path],
) -> list[Problem]:
    try:
        form.model_validate(given)
    except ValidationError as error:
        return list(_problems(error, path, source, model, broken))
    return []


def _no_mapping(source: SpecSource) -> Problem:
    message = f"a spec must be a mapping, got {show(source.data)}"
    return source.problem((), message, "write it as lines of key: value")


def _name_of(file: str) -> str:
    """The default name of a file's runs: its stem, without characters that a name cannot have."""
    if file.startswith(("/dev/fd/", "/dev/stdin", "/proc/")):
        return "run"
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", Folder(file).stem).lstrip("._-")
    return plain[:64] or "run"


def _problems(
    error: ValidationError,
    above: Path,
    source: SpecSource,
    model: type[BaseModel],
    broken: set[Path],
) -> Iterator[Problem]:
    """Errors of pydantic below a path in our words, without those below a broken value."""
    for detail in error.errors(include_url=False):
        path = (*above, *detail["loc"])
        if not _below(source.written(path), broken):
            words = wording(detail, keys_at(model, path[:-1]))
            fix = words.fix
            if fix is None and path == _KERNEL:
                fix = _kernels_of(detail["input"], source.base)
            message, at_key, column = words.message, words.at_key, words.column
            yield source.problem(path, message, fix, at_key=at_key, column=column)


_KERNEL = ("kernel",)


def _kernels_of(given: object, base: Folder) -> str | None:
    """For a malformed ``kernel``: the kernels of the file that it seems to name, or None."""
    file = given.partition(":")[0].removesuffix(".py") + ".py" if isinstance(given, str) else ""
    try:
        known = functions(read(base / file, file), file) if file else {}
    except (KernelError, ValueError):
        return None
    names = [f"{file}:{name}" for name, node in known.items() if form_of(node)]
    return f"its kernels: {', '.join(names)}" if names else None


def _below(path: Path, roots: set[Path]) -> bool:
    return any(path[:length] in roots for length in range(len(path) + 1))


def keys_at(model: type[BaseModel], path: Path) -> list[str]:
    """The keys allowed in the mapping at a path of a spec."""
    section: Any = model
    if path[:2] == ("nodes", "defaults"):
        section = DefaultsForm
    elif path[:1] == ("nodes",):
        section = NodesForm if len(path) == 1 else NodeForm
    elif path:
        section = section_of(model, str(path[0]))
        for step in path[1:]:
            section = (section_of(section, str(step)) if section else None) or section
    keys = list(section.model_fields) if section else []
    return keys if path else [*keys, *with_options(built_in())]


def section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The model of a key whose value is a mapping, such as ``until``; None for other keys."""
    if key not in model.model_fields and (entry := options([key]).get(key)):
        return options_model(entry)
    annotation = model.model_fields[key].annotation if key in model.model_fields else None
    for kind in (annotation, *get_args(annotation)):
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            return kind
    return None


def _nulls(source: SpecSource, broken: set[Path]) -> Iterator[Problem]:
    """Keys without a value; marked as broken, so that the model does not report them again."""
    for path in list(_null_paths(source.data, ())):
        if not _below(path, broken):
            yield source.problem(path, "a value is missing", "leave the key out for its default")
    # Only now, since what is in `broken` is not reported above.
    broken.update(_null_paths(source.data, ()))


def _null_paths(value: object, path: Path) -> Iterator[Path]:
    if _of_params(path):
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _null_paths(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _null_paths(inner, (*path, index))
    elif value is None and path[-1] not in NULLABLE:
        yield path


def _of_params(path: Path) -> bool:
    """Whether a path is inside ``params``, or inside a sweep's value for a parameter."""
    own = path[:1] == ("params",) and len(path) > 1
    swept = path[:1] == ("sweep",) and len(path) > 3
    return own or (swept and any(str(step).startswith("params.") for step in path[2:4]))


def _goal(model: type[BaseModel], source: SpecSource) -> Iterator[Problem]:
    """Problems of ``samples`` and ``until`` taken together."""
    data: Any = source.data
    until = data.get("until", {})
    if not isinstance(until, dict) or isinstance(data.get("sweep"), dict):
        return  # each point of a sweep is validated by itself
    targets = [f"until.{name}" for name in MEASURES if name in until]
    if targets and "samples" in data:
        message = f"cannot be combined with a target, {' and '.join(targets)}"
        fix = "remove one of them; until.max_samples limits the samples of a target"
        yield source.problem(("samples",), message, fix)
    if not targets:
        yield from _no_target(data, until, source)
    if "samples" not in data and not targets and "max_time" not in until:
        yield from _no_end(model, until, source)
    if _exceeds(until.get("min_samples"), until.get("max_samples")):
        limit, got = number(until["max_samples"]), number(until["min_samples"])
        message = f"must be at most until.max_samples, {limit}, got {got}"
        yield source.problem(("until", "min_samples"), message)


def _set_and_swept(data: dict[str, Any], paths: set[Path], source: SpecSource) -> Iterator[Problem]:
    """Keys that an override sets although the sweep varies them, so that it has no effect."""
    swept: set[str] = set()
    for part in ("matrix", "zip"):
        swept |= {*_as_dict(_as_dict(data.get("sweep")).get(part))}
    for path in paths:
        if join(path) in swept:
            yield source.problem(path, "the sweep varies it", "set several values, as in a,b")


def _bare_secrets(source: SpecSource) -> Iterator[Problem]:
    """Secrets written into ``notify``: the ledger would show them to all of its readers."""
    notify = _as_dict(_as_dict(source.data).get("notify"))
    cures = {
        "webhook": "write ${NAME} for an environment variable, or ${file:/path} for a file",
        "command": "let the command read it from a file or a variable",
    }
    for key, cure in cures.items():
        given = notify.get(key)
        texts = given if isinstance(given, list) else [given]
        for at, text in enumerate(texts):
            path: Path = ("notify", key) if text is given else ("notify", key, at)
            if isinstance(text, str):
                yield from (source.problem(path, why, cure) for why in bare_secrets(text))


def _no_target(
    data: dict[str, Any], until: dict[str, Any], source: SpecSource
) -> Iterator[Problem]:
    if "min_samples" in until:
        yield source.problem(("until", "min_samples"), "needs a precision target", _TARGETS)
    if "max_samples" in until and "samples" in data:
        message = "needs a precision target; samples already gives the number"
        yield source.problem(("until", "max_samples"), message, _TARGETS)


_TARGETS = f"a target is one of until.{', until.'.join(MEASURES)}"


def _no_end(model: type[BaseModel], until: dict[str, Any], source: SpecSource) -> Iterator[Problem]:
    # An unknown key is probably a misspelt one of these, and is reported as such.
    unknown = {*_as_dict(source.data)} - {*keys_at(model, ())} | {*until} - {
        *keys_at(model, ("until",))
    }
    if not unknown:
        fix = "give samples, a target such as until.half_width, or until.max_time"
        path: Path = ("until",) if until else ()
        yield source.problem(path, "nothing says when to stop", fix)


def _as_dict(data: object) -> dict[str, Any]:
    return data if isinstance(data, dict) else {}


def _exceeds(low: object, high: object) -> bool:
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (low, high))
    return numbers and low > high  # type: ignore[operator]  # both are numbers, see above
