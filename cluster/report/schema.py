"""The shipped JSON Schema of the documents that ``--json`` prints."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_FILE = "output.schema.json"


def output_schema(verb: str) -> dict[str, Any]:
    """The draft-07 schema of a verb's document.

    Args:
        verb: its name; or ``error`` or ``errors``, the documents of failed commands.

    Raises:
        KeyError: there is no such verb.
    """
    shipped: dict[str, Any] = json.loads(files("cluster").joinpath(_FILE).read_text("utf-8"))
    definitions = shipped["definitions"]
    if verb not in definitions:
        raise KeyError(verb)
    # In draft-07 siblings of a $ref are ignored, so the reference is wrapped in an allOf.
    return {
        "$schema": shipped["$schema"],
        "allOf": [{"$ref": f"#/definitions/{verb}"}],
        "definitions": definitions,
    }
