"""The one function that SCOOP ever calls; text in, text out, for nothing else may cross it."""

from __future__ import annotations

import json

from cluster.agent import ask, slots_address


def draw(text: str) -> str:
    """Have a task drawn by this host's workers; its outcome, or why there is none, as JSON."""
    try:
        return json.dumps({"outcome": ask(slots_address(), json.loads(text))})
    except Exception as error:
        return json.dumps({"lost": f"{type(error).__name__}: {error}"})
