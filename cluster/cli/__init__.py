"""The verbs: parse arguments, call the Python interface, print. No logic of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

# Importing these modules registers their verbs with the group. The verbs import the rest of the
# package when they are called, so that an error in the arguments is reported without numpy.
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
    """Run one command and return its exit code; the one place where every error ends up."""
    complete_streams()
    try:
        with handled(standard_handlers()):
            return _invoked(arguments)
    except BrokenPipeError:
        return reader_gone()
    except (Exception, KeyboardInterrupt, StopNow) as error:
        return fail(translated(error), as_json="--json" in arguments)


def refused(error: ClusterError, arguments: Sequence[str]) -> int:
    """Report why a command could not even start; returns the exit code."""
    return fail(error, as_json="--json" in arguments)


def _invoked(arguments: Sequence[str]) -> int:
    """Let click run the verb, but not by its ``main``, which exits on a broken pipe."""
    try:
        with group.make_context("cluster", list(arguments), obj=tuple(arguments)) as context:
            code = group.invoke(context)
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    sys.stdout.flush()
    return code if isinstance(code, int) else 0
