"""The JSON Schema and the reference agree with the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from jsonschema import Draft7Validator
from pydantic import Field

from cluster.common.engines import built_in
from cluster.common.errors import SpecError
from cluster.spec import Spec, parse, reference, schema
from cluster.spec.judge import SpecOrigin
from cluster.spec.values import Whole
from cluster.spec.yaml12 import read
from tests.spec.test_load import FULL, GOOD, outcome

ROOT = Path(__file__).parents[2]


def accepts(text: str) -> bool:
    """Whether the schema accepts what is read from a text."""
    return bool(Draft7Validator(schema()).is_valid(read(text).data))


def test_the_shipped_files_are_what_the_models_say() -> None:
    """Where this fails, run scripts/docs."""
    assert (ROOT / "docs/spec.md").read_text() == reference()
    assert json.loads((ROOT / "cluster/spec.schema.json").read_text()) == schema()


def test_the_schema_is_one_of_draft_07() -> None:
    """Editors know this one."""
    made = schema()
    Draft7Validator.check_schema(made)
    assert made["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert made["additionalProperties"] is False
    assert made["properties"]["backend"]["enum"] == [e.name for e in built_in()]
    assert "$defs" not in json.dumps(made)


def test_every_key_has_a_description_in_both() -> None:
    """What an editor shows is what the reference says."""
    made, text = schema(), reference()
    for part in (made, *made["definitions"].values()):
        for key, value in part["properties"].items():
            assert value["description"] in text
            assert f"| `{key}` |" in text


def test_a_default_is_written_as_in_a_spec() -> None:
    """The reference has YAML's ``true`` and lists, not Python's."""
    rows = [line.split(" | ") for line in reference().split("\n") if line.startswith("| `")]
    defaults = {row[0].removeprefix("| "): row[2] for row in rows if len(row) == 4}
    assert defaults["`keep_going`"] == "`true`"
    assert defaults["`on`"] == '`["done", "failed", "partial"]`'
    assert defaults["`store`"] == "`runs`"


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        FULL,
        *(GOOD + more for more in ("nodes: a", "nodes: [a, {host: b}]", "nodes: {hosts: a}")),
        *(GOOD + more for more in ("nodes: {file: f.txt}", "seed: null", "block: auto")),
        *(GOOD + more for more in ("retry: {attempts: null}", "until: {max_time: 1h 30m}")),
    ],
)
def test_a_good_spec_fits_the_schema(text: str) -> None:
    """An editor marks no valid spec as wrong."""
    assert accepts(text)


@pytest.mark.parametrize(
    "text",
    [
        "samples: 1",
        "kernel: k.py:f",
        *(
            GOOD + more
            for more in [
                "zzz: 1",
                "samplse: 1",
                "block: 0",
                "block: x",
                "seed: -1",
                "seed: 1.5",
                "name: ../x",
                "name: 3",
                "params: 3",
                "params: {a b: 1}",
                "until: 3",
                "until: {max_time: 22:30}",
                "until: {max_time: 0}",
                "until: {confidence: 1}",
                "until: {zzz: 1}",
                "include: a.py",
                "include: [../a.py]",
                "backend: no",
                "nodes: 3",
                "nodes: []",
                "nodes: [3]",
                "nodes: [{slots: 1}]",
                "nodes: [{host: a, slots: 0}]",
                "nodes: [{host: a, env: {A: 1}}]",
                "nodes: {hosts: [a], zzz: 1}",
                "retry: {attempts: 0}",
                "retry: {timeout: x}",
                "retry:",
                "store: ~/x",
                "store: ''",
                "description:",
            ]
        ),
    ],
)
def test_a_bad_spec_does_not_fit_the_schema(text: str) -> None:
    """The schema rejects what it can, and the reader agrees."""
    assert not accepts(text)
    assert outcome(text)[0] is None


def test_a_new_key_is_one_field() -> None:
    """Parsing, schema, JSON and messages follow from a field of the model."""

    class Later(Spec):
        """A spec of a later version."""

        priority: Annotated[int, Whole(0, 9)] = Field(default=5, description="First or last.")

    def later(text: str) -> Any:
        return Later.read(read(text), SpecOrigin("s.yaml", Path()))

    spec = later(f"{GOOD}priority: 7")
    assert spec.priority == 7
    assert Later.from_json(spec.to_json()) == spec
    assert "priority" in Later.model_json_schema()["properties"]
    with pytest.raises(SpecError) as caught:
        later(f"{GOOD}priority: 10")
    assert str(caught.value) == "s.yaml:3:11: priority: must be at most 9, got 10"


def test_the_examples_of_the_reference_are_specs() -> None:
    """The YAML examples of the docs are valid."""
    blocks = reference().split("```yaml\n")[1:]
    assert blocks
    for block in blocks:
        assert parse(block.partition("```")[0], "example.yaml", Path(), (), {}).kernel
