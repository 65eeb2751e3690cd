"""The JSON Schema of the spec and its reference in Markdown, generated from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from cluster.common.engines import Entry, built_in
from cluster.spec.engine_options import SecretPlace, options_model, with_options
from cluster.spec.hosts import DefaultsForm, NodeForm, NodesForm
from cluster.spec.judge import NULLABLE
from cluster.spec.model import Retry, Spec, Until
from cluster.spec.night import Notify, Schedule
from cluster.spec.sweep import Sweep
from cluster.spec.values import Text

_MODELS: Mapping[str, type[BaseModel]] = {
    "until": Until,
    "nodes": NodesForm,
    "node": NodeForm,
    "defaults": DefaultsForm,
    "retry": Retry,
    "sweep": Sweep,
    "schedule": Schedule,
    "notify": Notify,
    "secret": SecretPlace,
}
_HEADINGS = {
    "until": "`until`",
    "nodes": "`nodes`, as a mapping",
    "node": "An entry of `nodes`, as a mapping",
    "defaults": "`defaults`, in `nodes`",
    "retry": "`retry`",
    "sweep": "`sweep`",
    "schedule": "`schedule`",
    "notify": "`notify`",
    "secret": "A secret, as a mapping",
}


def schema(engines: Sequence[Entry] | None = None) -> dict[str, Any]:
    """The JSON Schema (draft-07) of a spec that was parsed by the rules of YAML 1.2.

    Args:
        engines: those that a spec may name; None: the built-in ones.
    """
    known = built_in() if engines is None else engines
    root = _object(Spec)
    definitions = {name: _object(model) for name, model in _MODELS.items()}
    for key in ("until", "retry", "sweep", "schedule", "notify"):
        root["properties"][key] = _refer(key)
    root["properties"]["backend"]["enum"] = [entry.name for entry in known]
    for each in with_options(known).values():
        definitions[each.name] = _options(each)
        root["properties"][each.name] = _reference(each.name, each.about)
    entry = {"anyOf": [Text().schema(), {"$ref": "#/definitions/node"}]}
    entries = {"type": "array", "minItems": 1, "items": entry}
    forms = [Text().schema(), entries]
    hosts = definitions["nodes"]["properties"]["hosts"]
    definitions["nodes"]["properties"]["hosts"] = {
        "description": hosts["description"],
        "anyOf": forms,
    }
    definitions["nodes"]["properties"]["defaults"] = _refer("defaults", NodesForm)
    root["properties"]["nodes"]["anyOf"] = [*forms, {"$ref": "#/definitions/nodes"}]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "cluster spec",
        **root,
        "anyOf": [{"required": ["samples"]}, {"required": ["until"]}, {"required": ["sweep"]}],
        "definitions": definitions,
    }


def _object(model: type[BaseModel]) -> dict[str, Any]:
    made = model.model_json_schema()
    properties = {key: _tidy(key, value) for key, value in made["properties"].items()}
    return {
        "description": (model.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        "required": made.get("required", []),
        "additionalProperties": False,
    }


def _tidy(key: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """A property without pydantic's title, and without null if the key is not nullable."""
    tidy = {name: value for name, value in made.items() if name != "title"}
    # None and the empty list stand for "not given", which needs no default in the reference.
    if tidy.get("default", ...) in (None, []):
        del tidy["default"]
    branches = tidy.get("anyOf", [])
    if {"type": "null"} in branches and key not in NULLABLE:
        rest = [branch for branch in branches if branch != {"type": "null"}]
        del tidy["anyOf"]
        tidy |= rest[0] if len(rest) == 1 else {"anyOf": rest}
    return tidy


def _options(entry: Entry) -> dict[str, Any]:
    made = _object(options_model(entry))
    for option in entry.options:
        if option.kind == "secret":
            made["properties"][option.name] = _reference("secret", option.description)
    return made


def _refer(key: str, model: type[BaseModel] = Spec) -> dict[str, Any]:
    return _reference(key, model.model_fields[key].description or "")


def _reference(definition: str, words: str) -> dict[str, Any]:
    # Draft-07 ignores keywords beside $ref, so the description needs an allOf.
    return {"description": words, "allOf": [{"$ref": f"#/definitions/{definition}"}]}


def reference() -> str:
    """The reference of the spec, as Markdown."""
    made = schema()
    sections = {"Keys": made, **{_heading(k): v for k, v in made["definitions"].items()}}
    tables = (line for title, part in sections.items() for line in _section(title, part))
    return "\n".join([_INTRODUCTION, *tables, _CONCLUSION])


def _heading(definition: str) -> str:
    return _HEADINGS.get(definition, f"`{definition}`")


def _section(title: str, part: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    if title != "Keys":
        yield f"{part['description']}\n"
    yield "| key | value | default | meaning |\n|---|---|---|---|"
    for key, value in part["properties"].items():
        default = "required" if key in part["required"] else _default(value)
        cells = (f"`{key}`", _kind(value), default, value["description"])
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
    yield ""


def _default(value: Mapping[str, Any]) -> str:
    """A property's default as a spec would write it; empty if it has none."""
    match value:
        case {"default": float(number)}:
            return f"`{number:g}`"
        case {"default": str(text)}:
            return f"`{text}`"
        case {"default": other}:
            return f"`{json.dumps(other)}`"
    return ""


def _kind(value: Mapping[str, Any]) -> str:
    """A property's type in words."""
    if "$comment" in value:
        return str(value["$comment"])
    if "enum" in value:
        return ", ".join(f"`{name}`" for name in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if branches := value.get("anyOf") or value.get("allOf"):
        return " or ".join(map(_kind, branches))
    if "$ref" in value:
        return f"mapping ([{value['$ref'].rpartition('/')[2]}](#{_anchor(value['$ref'])}))"
    return _plain_kind(value)


def _anchor(ref: str) -> str:
    heading = _heading(ref.rpartition("/")[2]).lower()
    return "".join(letter for letter in heading if letter not in "`,.").replace(" ", "-")


def _plain_kind(value: Mapping[str, Any]) -> str:
    kind = value["type"]
    if kind == "array":
        return f"list of: {_kind(value['items'])}"
    words = {"integer": "whole number", "string": "text", "object": "mapping"}
    return f"{words.get(kind, kind)}{_limits(value)}"


def _limits(value: Mapping[str, Any]) -> str:
    low, high = value.get("minimum"), value.get("maximum", 2**63)
    limits = [f"from {low}"] if low is not None else []
    limits += ["above 0"] if "exclusiveMinimum" in value else []
    limits += [f"and below {value['exclusiveMaximum']}"] if "exclusiveMaximum" in value else []
    # The general limit of 64 bits is not worth mentioning.
    limits += [f"to {high:,}"] if high < 2**63 - 1 else []
    return f" {' '.join(limits)}" if limits else ""


_INTRODUCTION = """\
# The spec

<!-- Made by scripts/docs from the models in cluster/spec; edit it there. -->

A spec is one YAML file: what to compute, where, and until when. The answer depends only on
`kernel`, `params`, `samples` or `until`, `block` and `seed`; everything else says where and how.

```yaml
kernel: ../jobs/pi.py:pi
samples: 1e9
nodes: ["n[01-04]", big:32]   # inside a list, text with brackets has to be quoted
```

The text is read by the rules of YAML 1.2. `1e9`, `1_000_000` and `1e-5` are numbers; only `true`
and `false` are booleans, so `no` and `on` are text, and so are `22:30` and dates; `010` is an
error. Duplicate keys, unknown keys, keys without a value, tags and merge keys are errors too;
`null` is a value only inside `params`, or in a sweep's value of a parameter. A spec is UTF-8, at
most 1 MiB with 20,000 values and 32 levels. All problems are reported at once, with line and
column. `-` in place of the file reads standard input; in a spec from a pipe, paths are relative
to the working directory.

`--set key=value` overrides one key with a YAML value: `--set samples=1e6`, `--set params.d=3`,
`--set nodes[0].slots=4`; `--set seed=null` removes a key. A comma outside brackets and quotes
makes a sweep: `--set params.d=1,2,3` is an axis of `sweep.matrix`.
"""

_CONCLUSION = """\
## Hosts as text

| text | meaning |
|---|---|
| `n[01-16,20]`, `a[1-2],b3` | a Slurm host list |
| `host:4`, `4/host` | a host with 4 slots (a port has its own key: write 22 slots as `22/host`) |
| `user@host`, `"[::1]:4"` | a user for ssh; an IPv6 address is written in brackets |
| `hosts.txt`, `path/to/hostfile` | Open MPI or MPICH host file; slots of a repeated host add up |
| `auto` | the hosts that Slurm or PBS gave to this job; outside a job nothing can be run |

A text names a file if it contains a `/`, has an ending of such files (`.txt`, `.hosts`, `.lst`,
`.csv`, `hostfile`, `machine_list`), or if there is a file of that name beside the spec;
`{host: ...}` is always a host. A host may be listed only once. A machine under two names is
reported by a run if it has more slots than cores.
"""
