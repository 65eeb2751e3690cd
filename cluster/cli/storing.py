"""The verbs for stored runs: recompute blocks, export, merge and remove."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cluster.cli.frame import (
    FolderArgument,
    answer,
    overrides_option,
    quiet_option,
    run_argument,
    store_option,
    verb,
    watched,
)
from cluster.common.errors import UsageError
from cluster.common.states import State
from cluster.report import stores, text


@verb("repro")
@run_argument
@click.option("--block", type=click.IntRange(min=0), required=True, help="index of the block")
@store_option
def _repro(run: str, block: int, store: Path, as_json: bool) -> int:
    from cluster import api

    repro = api.repro(run, block, store)
    document = repro.to_json()
    answer(document, as_json, lambda: text.repro(document))
    return 1 if repro.fault or repro.matches is False else 0


@verb("verify")
@run_argument
@click.option(
    "--fraction", type=float, default=0.01, show_default=True, help="fraction of the blocks"
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="seed of the random choice of blocks"
)
@overrides_option
@store_option
@quiet_option
def _verify(
    run: str,
    fraction: float,
    seed: int,
    overrides: Sequence[str],
    store: Path,
    quiet: bool,
    as_json: bool,
) -> int:
    from cluster.lifecycle.verify import verify

    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    with watched(True, store) as (_, stop):
        found = verify(run, fraction, store, seed=seed, overrides=overrides, tell=tell, stop=stop)
    document = found.to_json()
    answer(document, as_json, lambda: stores.verified(document))
    if found.differing or found.row:
        return 1
    return State.PARTIAL.exit_code() if found.unchecked else 0


@verb("export")
@run_argument
@click.option("--blocks", required=True, metavar="A-B", help="blocks A to B, both included")
@click.option("--to", type=FolderArgument(), required=True, help="folder of the new shard")
@store_option
def _export(run: str, blocks: str, to: Path, store: Path, as_json: bool) -> None:
    from cluster.lifecycle.shards import export

    document = export(run, blocks, to, store).to_json()
    answer(document, as_json, lambda: stores.exported(document))


@verb("merge")
@click.argument("out", type=FolderArgument())
@click.argument("sources", nargs=-1, required=True, type=FolderArgument())
@click.option("--verify", is_flag=True, help="compare blocks that several stores have, bit for bit")
def _merge(out: Path, sources: Sequence[Path], verify: bool, as_json: bool) -> int:
    from cluster.lifecycle.shards import merge

    merged = merge(out, sources, verify=verify)
    document = merged.to_json()
    answer(document, as_json, lambda: stores.merged(document))
    return 1 if merged.differs else 0


def _seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """Parse a duration as in a spec, such as ``30d``; in seconds."""
    from pydantic_core import PydanticCustomError

    from cluster.spec.values import Duration

    if value is None:
        return None
    try:
        return Duration().check(value)
    except PydanticCustomError as error:
        raise click.BadParameter(error.message()) from None


@verb("gc")
@click.option(
    "--older-than", callback=_seconds, metavar="TIME", help="only runs older than this, such as 30d"
)
@click.option("--keep", type=click.IntRange(min=0), help="keep this many newest runs per name")
@click.option("--yes", is_flag=True, help="do not ask for confirmation")
@store_option
def _gc(older_than: float | None, keep: int | None, yes: bool, store: Path, as_json: bool) -> int:
    from cluster.lifecycle.prune import prunable, prune

    old = prunable(store, older=older_than, keep=keep)
    rows = [run.to_json() for run in old]
    if rows and not yes:
        text.show(stores.prunable(rows), sys.stderr)
        if not sys.stdin.isatty():
            raise UsageError(
                "cannot ask for confirmation: standard input is not a terminal",
                fix="add --yes to remove these runs permanently",
            )
        if not click.confirm(f"permanently remove {len(rows)} runs?", err=True):
            rows, old = [], []
    document = {"removed": prune(old, store)}
    answer(document, as_json, lambda: stores.pruned(document))
    return 0
