"""What --json prints is what the shipped schema says."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from jsonschema import Draft7Validator

from cluster.common.commands import VERBS
from cluster.report.result import Failure, NodeResult, Result
from cluster.report.schema import output_schema
from cluster.sampling.tally import Histogram, Hits, Moments, Tally
from tests.report.documents import GOOD, NEW, PLAN, REPRO, STANDING
from tests.report.made import CASES, PI

# Of the contract: these are never renamed, and never left out.
RESULT_KEYS = {
    "schema",
    "run",
    "name",
    "state",
    "stopped_by",
    "drained",
    "backend",
    "kernel",
    "seed",
    "block",
    "samples",
    "blocks",
    "estimate",
    "std_error",
    "interval",
    "confidence",
    "reference",
    "tally",
    "digest",
    "wall_s",
    "nodes",
    "failures",
}
NODE_KEYS = {
    "node",
    "slots",
    "tasks",
    "samples",
    "share",
    "busy_s",
    "cpu_s",
    "samples_per_s",
    "utilisation",
    "goodput",
    "failures",
    "lost_s",
}
FAILURE_KEYS = {"block", "node", "attempt", "type", "message", "traceback"}

BAD: list[tuple[str, Any]] = [
    ("ls", {}),
    ("ls", [{**STANDING, "state": "finished"}]),
    ("status", {"runs": [NEW]}),
    ("status", {key: value for key, value in STANDING.items() if key != "holder"}),
    ("validate", {"valid": False}),
    ("plan", {**PLAN, "nodes": ["localhost"]}),
    ("node", {"address": "10.0.0.1"}),
    ("doctor", {"findings": [{"check": "c", "status": "fine", "message": "m", "fix": None}]}),
    ("repro", {**REPRO, "tally": {"kind": "hits", "hits": 1}}),
    ("repro", {**REPRO, "tally": {"kind": "other"}}),
    ("nodes", {"nodes": [{"node": "h1"}], "backend": "ssh", "required": 1}),
    ("nodes", {"run": "pi-1", "added": []}),
    ("schema", {"$schema": "http://json-schema.org/draft-07/schema#", "properties": 1}),
    ("error", {"error": {"code": 0, "message": "m", "where": None, "fix": None}}),
    ("errors", {"errors": []}),
]


def problems(verb: str, document: Any) -> list[str]:
    """What the schema of a verb finds in a document, after its way through JSON."""
    text = json.dumps(document, allow_nan=False)
    found = Draft7Validator(output_schema(verb)).iter_errors(json.loads(text))
    return [error.message for error in found]


def result(**changes: Any) -> dict[str, Any]:
    """The document of a run to its end, with changes."""
    return {**PI.to_json(), **changes}


@pytest.mark.parametrize("verb", [*VERBS, "error", "errors"])
def test_every_verb_has_a_valid_schema(verb: str) -> None:
    """There is a definition for each verb, and all references in it lead somewhere."""
    Draft7Validator.check_schema(output_schema(verb))
    assert problems(verb, "no document") != []


def test_an_unknown_verb_has_no_schema() -> None:
    """A verb that is not there is a KeyError, not an empty schema that lets all pass."""
    with pytest.raises(KeyError, match="frobnicate"):
        output_schema("frobnicate")


@pytest.mark.parametrize("verb", ["submit", "resume", "extend", "show"])
@pytest.mark.parametrize("name", CASES)
def test_every_result_fits_the_schema(verb: str, name: str) -> None:
    """All kinds of tally and all endings."""
    assert problems(verb, CASES[name].to_json()) == []


@pytest.mark.parametrize(("verb", "document"), GOOD)
def test_a_document_of_each_verb_fits_its_schema(verb: str, document: Any) -> None:
    """What the verbs print is let pass."""
    assert problems(verb, document) == []


@pytest.mark.parametrize(("verb", "document"), BAD)
def test_a_wrong_document_does_not_fit(verb: str, document: Any) -> None:
    """A schema that lets everything pass would test nothing."""
    assert problems(verb, document) != []


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"state": "ended"},
        {"stopped_by": None},
        {"drained": None},
        {"state": "running"},
        {"seed": "7"},
        {"seed": 7.5},
        {"samples": -1},
        {"ranges": [[0]]},
        {"estimate": "3.14"},
        {"interval": [1.0]},
        {"interval": None},
        {"confidence": 1.0},
        {"tally": None},
        {"tally": {"kind": "hits", "hits": 1.5, "samples": 2}},
        {"tally": {"kind": "moments", "samples": 2, "sum": 1.5, "sum_squares": "0x1p+0"}},
        {"digest": None},
        {"digest": "abc"},
        {"nodes": [{"node": "n1"}]},
        {"failures": 0},
    ],
)
def test_a_wrong_result_does_not_fit(changes: dict[str, Any]) -> None:
    """One key changed to what the contract does not allow."""
    assert problems("submit", result()) == []
    assert problems("submit", result(**changes)) != []


@pytest.mark.parametrize("key", sorted(RESULT_KEYS))
def test_no_key_of_the_contract_may_be_missing(key: str) -> None:
    """All of them, in every ending."""
    document = result()
    del document[key]
    assert any(f"'{key}' is a required property" in text for text in problems("show", document))


@pytest.mark.parametrize(
    ("name", "owner", "contract"),
    [
        ("result", Result, RESULT_KEYS - {"schema"}),
        ("node_result", NodeResult, NODE_KEYS),
        ("failure", Failure, FAILURE_KEYS),
    ],
)
def test_schema_and_code_have_the_same_keys(name: str, owner: Any, contract: set[str]) -> None:
    """A key added to the code is added to the schema, and none of the contract is lost."""
    definition = output_schema("show")["definitions"][name]
    own = {field.name for field in fields(owner)} - {"members", "asked"}  # of a sweep
    assert set(definition["properties"]) - {"schema"} == own
    assert set(definition["required"]) == set(definition["properties"])
    assert contract <= own


@pytest.mark.parametrize(
    "tally",
    [
        Hits(0, 0),
        Hits(10**19, 10**20),
        Moments.of([-1.5]),
        Moments.of([0.0, 0.0]),
        Moments.of([1e-150, -1e150]),
        Histogram.of([0.1], [0.0, 0.5, 1.0]),
    ],
)
@pytest.mark.fault(62)
def test_every_tally_fits_the_schema(tally: Tally) -> None:
    """Counts beyond 64 bits are integers, exact sums are text."""
    assert problems("repro", {**REPRO, "tally": tally.to_json()}) == []


def test_nan_and_infinities_are_null() -> None:
    """JSON has neither; the schema says where null may stand."""
    odd = replace(PI, std_error=float("nan"), interval=[float("-inf"), float("inf")])
    document = odd.to_json()
    assert (document["std_error"], document["interval"]) == (None, [None, None])
    assert problems("show", document) == []
