"""The one function that SCOOP ever calls; text in, text out, for nothing else may cross it."""

from __future__ import annotations

import json

from cluster.hosts.agent_client import Desk, slots_address

# Tasks that come together are short. One that is not must not hold up what the others brought.
_PATIENCE = 1.0

_desk: Desk | None = None
#: The first task of what is being drawn by this process.
current: int | None = None


def draw(text: str) -> str:
    """Have tasks drawn by this host's workers; their outcomes, or why there are none, as JSON."""
    global _desk, current  # noqa: PLW0603 - SCOOP calls a function, and the connection lasts
    tasks = json.loads(text)
    current = tasks[0][0]
    try:
        _desk = _desk or Desk(slots_address())
        # One alone is waited for: SCOOP gives a worker nothing else meanwhile.
        outcomes, left = _desk.ask(tasks, _PATIENCE if len(tasks) > 1 else None)
    except Exception as error:
        _desk = None
        return json.dumps({"lost": f"{type(error).__name__}: {error}"})
    finally:
        current = None
    return f'{{"outcomes":[{",".join(outcomes)}],"left":{left}}}'
