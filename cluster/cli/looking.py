"""The verbs that show runs, wait for them and stop them."""

from __future__ import annotations

import math
import signal
import sys
from pathlib import Path

import click

from cluster.cli.console import signals
from cluster.cli.frame import answer, run_argument, show_result, store_option, verb
from cluster.common.errors import UsageError
from cluster.report import live, swept, text


@verb("ls")
@store_option
def _ls(store: Path, as_json: bool) -> None:
    from cluster import api

    rows = [standing.to_json() for standing in api.runs(store)]
    answer(rows, as_json, lambda: text.ls(rows))


@verb("status")
@click.argument("run", required=False)
@store_option
def _status(run: str | None, store: Path, as_json: bool) -> None:
    from cluster import api

    if run is not None:
        document = api.status(run, store).to_json()
    else:
        rows = [standing.to_json() for standing in api.runs(store)]
        document = {"runs": [row for row in rows if row["state"] == "running"]}
    answer(document, as_json, lambda: text.status(document))


@verb("show")
@run_argument
@store_option
@click.option("--csv", "as_csv", is_flag=True, help="sweep: print its table as CSV")
@click.option(
    "--parquet",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="sweep: write its table as a Parquet file",
)
def _show(run: str, store: Path, as_csv: bool, parquet: Path | None, as_json: bool) -> None:
    from cluster import api

    result = api.show(run, store)
    if (as_csv or parquet is not None) and not result.members:
        raise UsageError(f"{run} is not a sweep", fix="omit --csv and --parquet")
    if parquet is not None:
        swept.write_parquet(result, parquet)
    if as_csv:
        click.echo(swept.csv_text(result), nl=False)
    elif as_json or parquet is None:
        document = result.to_json() if as_json else None
        answer(document, as_json, lambda: text.either(result, store, short=False))


@verb("compare")
@click.argument("a")
@click.argument("b")
@store_option
def _compare(a: str, b: str, store: Path, as_json: bool) -> int:
    from cluster import api

    found = api.compare(a, b, store)
    document = {"pairs": [each.to_json() for each in found]}
    answer(document, as_json, lambda: text.compare(document))
    return 1 if any(each.verdict == "differ" for each in found) else 0


@verb("watch")
@run_argument
@store_option
def _watch(run: str, store: Path, as_json: bool) -> int:
    from cluster.unattended import detached

    with live.observer(sys.stderr) as observe:
        result = detached.follow(run, store, observe)
    return show_result(result, store, as_json)


@verb("logs")
@run_argument
@click.option("--follow", "-f", is_flag=True, help="keep printing new lines until the run ends")
@store_option
def _logs(run: str, follow: bool, store: Path, as_json: bool) -> None:
    from cluster import api
    from cluster.ledger import log_of
    from cluster.unattended import detached

    name = api.status(run, store).run
    pieces = detached.tail(name, store, onward=follow)
    if as_json:
        path = str(log_of(name, store))
        answer({"run": name, "path": path, "text": "".join(pieces)}, as_json, list)
        return
    for piece in pieces:
        click.echo(piece, nl=False)


def _seconds(
    _context: click.Context, _option: click.Parameter, given: float | None
) -> float | None:
    """Refuse NaN, which passes click's range because no comparison with it holds."""
    if given is not None and math.isnan(given):
        raise UsageError(f"--timeout must be a number of seconds, got {given}")
    return given


_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    callback=_seconds,
    metavar="SECONDS",
    help="give up after this time, with exit code 75",
)


@verb("wait")
@run_argument
@_timeout
@store_option
def _wait(run: str, timeout: float | None, store: Path, as_json: bool) -> int:
    from cluster.unattended import detached

    return show_result(detached.follow(run, store, timeout=timeout), store, as_json)


@verb("attach")
@run_argument
@store_option
def _attach(run: str, store: Path, as_json: bool) -> int:
    from cluster.unattended import detached

    # Pass on Ctrl-C only: closing the terminal ends the view, not the run.
    with live.observer(sys.stderr) as observe, signals(signal.SIGINT) as stop:
        result = detached.attach(run, store, observe, stop)
    return show_result(result, store, as_json)


@verb("stop")
@run_argument
@click.option("--now", is_flag=True, help="do not finish the tasks in progress")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    callback=_seconds,
    metavar="SECONDS",
    help="how long to wait for the run to finish its tasks and end",
)
@store_option
def _stop(run: str, now: bool, timeout: float, store: Path, as_json: bool) -> None:
    from cluster import api
    from cluster.unattended import detached

    document = api.status(detached.halt(run, store, now=now, timeout=timeout), store).to_json()
    answer(document, as_json, lambda: text.status(document))
