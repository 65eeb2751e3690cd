"""The verbs: read arguments, call the interface, print. Nothing is decided here."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

# Each of them adds its verbs to the group.
from cluster.cli import computing, hosting, looking, storing
from cluster.cli.console import (
    complete_streams,
    fail,
    handled,
    reader_gone,
    standard_handlers,
    translated,
)
from cluster.cli.frame import group
from cluster.common.errors import ClusterError, StopNow

__all__ = ["computing", "group", "hosting", "looking", "refused", "run", "storing"]


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Every error ends here, in one place."""
    complete_streams()
    try:
        with handled(standard_handlers()):
            return _told(arguments)
    except BrokenPipeError:
        return reader_gone()
    except (Exception, KeyboardInterrupt, StopNow) as error:
        return fail(translated(error), as_json="--json" in arguments)


def refused(error: ClusterError, arguments: Sequence[str]) -> int:
    """Tell why a command could not even begin; returns the exit code."""
    return fail(error, as_json="--json" in arguments)


def _told(arguments: Sequence[str]) -> int:
    """Have click run the verb. Its own ``main`` would end the process on a broken pipe."""
    try:
        with group.make_context("cluster", list(arguments), obj=tuple(arguments)) as context:
            code = group.invoke(context)
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    sys.stdout.flush()
    return code if isinstance(code, int) else 0
