"""The messages: JSON objects, each with a line of text that chat services show."""

from __future__ import annotations

from typing import Any

from cluster.common.errors import ClusterError
from cluster.hosts.scratch import hostname
from cluster.report.numbers import value_text
from cluster.report.result import Result

Message = dict[str, Any]


def of_result(result: Result) -> Message:
    """The message of how a start of a run, a sweep, or a part of one, ended."""
    if result.members:
        return _of_sweep(result)
    value, error = result.estimate, result.std_error
    shown = "" if value is None or isinstance(value, list) else f", {value_text(value, error)}"
    why = f" ({result.stopped_by})" if result.stopped_by else ""
    document = result.to_json()
    keys = (
        "run",
        "name",
        "state",
        "stopped_by",
        "drained",
        "samples",
        "estimate",
        "std_error",
        "interval",
        "digest",
        "wall_s",
        "resume",
        "advice",
    )
    return {
        **_head(
            result.state,
            f"{result.name}: {result.state}{why}{shown}, run {result.run}{_next(result)}",
        ),
        **{key: document[key] for key in keys},
    }


def _of_sweep(result: Result) -> Message:
    state, total = result.state, len(result.members)
    why = f" ({result.stopped_by})" if result.stopped_by else ""
    done = f"{result.done} of {total} points done"
    return {
        **_head(state, f"{result.name}: {state}{why}, {done}, sweep {result.run}{_next(result)}"),
        "run": result.run,
        "name": result.name,
        "state": state,
        "stopped_by": result.stopped_by,
        "points_done": result.done,
        "points_total": total,
        "failed": [point.point for point in result.members if point.result.state == "failed"],
        "wall_s": result.wall_s,
        "resume": result.resume,
        "advice": result.advice,
    }


def _next(result: Result) -> str:
    return f"; {result.advice}" if result.advice else ""


def of_error(run: str, name: str, error: ClusterError) -> Message:
    """The message of a start that ended with an error.

    Args:
        run: the id of the run or the sweep.
        name: its name.
        error: what it ended with.
    """
    line = f"{name}: failed: {error.message}, run {run}"
    return {**_head("failed", line), "run": run, "name": name, **error.to_json()}


def of_loss(run: str, name: str, node: str, reason: str) -> Message:
    """The message of a node that was lost while a run was computed.

    Args:
        run: the id of the run or the sweep.
        name: its name.
        node: its name.
        reason: why it was lost, in words.
    """
    line = f"{name}: lost the node {node}: {reason}, run {run}"
    return {**_head("node_lost", line), "run": run, "name": name, "node": node, "reason": reason}


def _head(event: str, line: str) -> Message:
    return {"schema": 1, "event": event, "text": line, "host": hostname()}
