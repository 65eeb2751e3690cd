"""The functions whose source dispy sends to its nodes, where they run in dispynode's own module.

A node of ours runs nothing else: it refuses any other source, see :func:`check`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

# For mypy only. In dispynode's module these names do not exist until `prepare` sets one, and that
# it sets a new global is what matters there.
cluster_drawing: Any
cluster_alone: Any


# No annotations in what follows: the source runs in a module that lacks their imports.
def draw(text):  # type: ignore[no-untyped-def]
    """Have a task drawn; JSON in, JSON out."""
    from cluster.backends.dispy import drawing

    return drawing.draw(text)


def prepare():  # type: ignore[no-untyped-def]
    """Begin a run on a node.

    It leaves a global behind, and so dispynode forks jobs from the process that called this. Forked
    from dispynode itself, one that ends too early stops all answers of the node.
    """
    global cluster_drawing  # noqa: PLW0603 - this is how dispynode is told
    from cluster.backends.dispy import drawing as cluster_drawing

    cluster_drawing.prepare()
    return 0


def draw_alone(text):  # type: ignore[no-untyped-def]
    """Start an agent on a stock node; JSON in, JSON out."""
    return cluster_alone(text)


def prepare_alone():  # type: ignore[no-untyped-def]
    """Begin a run on a stock node; if that fails, every job reports the reason."""
    global cluster_alone  # noqa: PLW0603 - see prepare
    try:
        from cluster.backends.dispy.alone import answer as cluster_alone
        from cluster.hosts.process_tree import die_with_parent

        die_with_parent()
    except ImportError as error:
        import json

        words = json.dumps({"unfit": "cluster cannot be imported there: " + str(error)})
        cluster_alone = lambda text: words  # noqa: E731 - only this source travels
    return 0


def check(found: Any) -> None:
    """Refuse a computation or a job of dispy's that would run anything but these functions.

    Raises:
        ValueError: it would.
    """
    kind = type(found).__name__
    if kind == "_Compute" and _said(found) != _EXPECTED:
        raise ValueError("a computation that is not ours")
    if kind == "_DispyJob_" and (found.code or found.xfer_files):
        raise ValueError("a job that brings code or files")


def _said(compute: Any) -> tuple[Any, ...]:
    return (
        compute.type,
        compute.name,
        compute.setup,
        compute.code,
        compute.dest_path,
        compute.cleanup,
        list(compute.xfer_files),
    )


def _source(function: Callable[..., Any]) -> str:
    return "".join(inspect.getsourcelines(function)[0])


OURS, ALONE = (draw, prepare), (draw_alone, prepare_alone)
_CODE = f"{_source(draw)}\n{_source(prepare)}"
_EXPECTED: tuple[Any, ...] = (1, draw.__name__, prepare.__name__, _CODE, None, True, [])
