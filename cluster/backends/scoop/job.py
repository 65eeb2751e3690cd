"""The only function that SCOOP calls.

Its argument and result are text: a result that does not pickle would end SCOOP's whole pool.
"""

from __future__ import annotations

import json

from cluster.hosts.agent_client import Desk, slots_address

# Seconds to wait for a batch. Tasks that travel together are expected to be short; one that turns
# out long must not delay the outcomes of the others.
_PATIENCE = 1.0

_desk: Desk | None = None
#: The first task of the batch that this process is working on; the worker's heartbeat reports it.
current: int | None = None


def draw(text: str) -> str:
    """Have tasks drawn by this host's workers.

    Args:
        text: the fields of the tasks, as JSON.

    Returns:
        As JSON: ``outcomes``, and ``left``, the ids of tasks whose outcomes the agent will send to
        the dispatcher itself; or ``lost``, the reason why there are none.
    """
    global _desk, current  # noqa: PLW0603 - SCOOP calls a function, and the connection lasts
    tasks = json.loads(text)
    current = tasks[0][0]
    try:
        _desk = _desk or Desk(slots_address())
        # Wait for a single task as long as it takes: there is nothing that could return earlier,
        # and SCOOP gives a busy worker no other task.
        outcomes, left = _desk.ask(tasks, _PATIENCE if len(tasks) > 1 else None)
    except Exception as error:
        _desk = None
        return json.dumps({"lost": f"{type(error).__name__}: {error}"})
    finally:
        current = None
    return f'{{"outcomes":[{",".join(outcomes)}],"left":{left}}}'
