"""The JSON Schema of what ``--json`` prints, as it is shipped."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

_FILE = "output.schema.json"


def output_schema(verb: str) -> dict[str, Any]:
    """The draft-07 schema of a verb's document; also of ``error`` and ``errors``.

    Raises:
        KeyError: no verb of that name.
    """
    shipped: dict[str, Any] = json.loads(files("cluster").joinpath(_FILE).read_text("utf-8"))
    definitions = shipped["definitions"]
    if verb not in definitions:
        raise KeyError(verb)
    # In draft-07 a $ref hides its neighbours, so the definitions stand beside an allOf.
    return {
        "$schema": shipped["$schema"],
        "allOf": [{"$ref": f"#/definitions/{verb}"}],
        "definitions": definitions,
    }
