"""The verbs that compute, and those that show what would be computed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.frame import (
    DETACHED,
    Function,
    answer,
    detachable,
    overrides_option,
    own_store_option,
    quiet_option,
    run_argument,
    show_result,
    spec_argument,
    store_option,
    verb,
    watched,
)
from cluster.common.errors import UsageError
from cluster.report import text

if TYPE_CHECKING:
    from cluster.unattended import schedule


_confirm_option = click.option(
    "--yes", is_flag=True, help="confirm a sweep of more than 100,000 points"
)


def _sweep_options(function: Function) -> Function:
    """The options of ``submit`` that apply to sweeps only."""
    going = click.option(
        "--keep-going/--fail-fast",
        default=None,
        help="sweep: continue with, or stop, the other points when one fails",
    )
    part = click.option(
        "--points", metavar="K/N", help="sweep: compute only the K-th of N parts of its points"
    )
    return going(part(_confirm_option(function)))


@verb("submit")
@spec_argument
@overrides_option
@_sweep_options
@click.option("--resume", is_flag=True, help="continue the newest run of this request, if any")
@click.option(
    "--task-blocks", type=click.IntRange(min=1), help="fix the length of every task, in blocks"
)
@own_store_option
@quiet_option
@detachable
def _submit(
    spec: Path,
    overrides: Sequence[str],
    resume: bool,
    task_blocks: int | None,
    store: Path | None,
    quiet: bool,
    as_json: bool,
    **of_sweep: Any,
) -> int:
    from cluster import api

    loaded = api.load(spec, overrides)
    if loaded.sweep is None:
        given = {
            "--points": of_sweep["points"],
            "--yes": of_sweep["yes"] or None,
            "--keep-going or --fail-fast": of_sweep["keep_going"],
        }
        for option, value in given.items():
            if value is not None:
                raise UsageError(f"{option} applies to sweeps only, and the spec has none")
    with watched(quiet, store or loaded.store) as (observe, stop):
        result = api.submit(
            loaded,
            resume=resume,
            store=store,
            observe=observe,
            stop=stop,
            pinned=task_blocks,
            **of_sweep,
        )
    return show_result(result, store or loaded.store, as_json)


@verb("resume")
@run_argument
@overrides_option
@store_option
@quiet_option
@detachable
def _resume(run: str, overrides: Sequence[str], store: Path, quiet: bool, as_json: bool) -> int:
    from cluster import api

    with watched(quiet, store) as (observe, stop):
        result = api.resume(run, store, overrides=overrides, observe=observe, stop=stop)
    return show_result(result, store, as_json)


@verb("extend")
@run_argument
@click.option("--samples", help="the new total number of samples")
@overrides_option
@store_option
@quiet_option
@detachable
def _extend(
    run: str,
    samples: str | None,
    overrides: Sequence[str],
    store: Path,
    quiet: bool,
    as_json: bool,
) -> int:
    from cluster import api

    goals = (*([f"samples={samples}"] if samples else []), *overrides)
    if not goals:
        raise UsageError("extend to what?", fix="--samples N, or --set until.half_width=H")
    with watched(quiet, store) as (observe, stop):
        result = api.extend(run, store, overrides=goals, observe=observe, stop=stop)
    return show_result(result, store, as_json)


@verb("validate")
@spec_argument
@overrides_option
@_confirm_option
def _validate(spec: Path, overrides: Sequence[str], yes: bool, as_json: bool) -> None:
    from cluster import api

    loaded = api.load(spec, overrides)
    plan = api.plan(loaded, seconds=0, yes=yes).to_json()
    of_run = ("name", "kernel", "identity", "blocks", "samples", "target")
    keys = of_run if loaded.sweep is None else ("name", "points")
    document = {"valid": True, "file": str(spec), **{key: plan[key] for key in keys}}
    answer(document, as_json, lambda: text.validated(document))


@verb("plan")
@spec_argument
@overrides_option
@click.option(
    "--seconds",
    type=click.FloatRange(min=0),
    default=2.0,
    show_default=True,
    help="length of the trial run; 0 skips it",
)
@_confirm_option
def _plan(spec: Path, overrides: Sequence[str], seconds: float, yes: bool, as_json: bool) -> None:
    from cluster import api

    if not math.isfinite(seconds):
        raise UsageError(f"--seconds must be a finite number of seconds, got {seconds}")
    loaded = api.load(spec, overrides)
    document = api.plan(loaded, seconds, yes=yes).to_json()
    answer(document, as_json, lambda: text.plan(document))


@verb("schedule")
@spec_argument
@click.option("--cron", metavar="TIMES", help="add a crontab line, at times like '0 22 * * 1-5'")
@click.option("--systemd", is_flag=True, help="install a service and a timer for the user")
@click.option("--slurm", is_flag=True, help="write a batch script that requeues itself")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="Slurm: as in time=2:00:00")
@click.option("--parts", type=int, metavar="N", help="Slurm: a job array, the sweep in N parts")
@click.option(
    "--at",
    metavar="EVENT",
    help="systemd: the timer's OnCalendar (default: when the window opens); Slurm: scrontab times",
)
@click.option("--print", "printed", is_flag=True, help="only print what would be written")
@click.option(
    "--remove",
    is_flag=True,
    help="remove the schedule (Slurm: scripts in this folder or beside the spec)",
)
@_confirm_option
@click.option("--start", is_flag=True, help="make one start now; this is what the scheduler runs")
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--log", type=click.Path(path_type=Path), hidden=True)
@overrides_option
@own_store_option
def _schedule(spec: Path, start: bool, remove: bool, as_json: bool, **options: Any) -> int | None:
    if start:
        if remove or any(options[name] for name in _GIVEN):
            raise UsageError("--start runs the spec now and takes no scheduler option")
        return _start(spec, as_json=as_json, **options)
    from cluster.unattended import schedule

    if remove:
        if options["printed"]:
            raise UsageError("--print changes nothing, but --remove does", fix="give one of them")
        document = schedule.remove(spec)
    elif options["slurm"] or options["sbatch"] or options["parts"] is not None:
        document = _batch(spec, options)
    else:
        asked = {name: options[name] for name in ("cron", "systemd", "at", "printed")}
        document = schedule.put(spec, _each_start(options), **asked)
    answer(document, as_json, lambda: text.scheduled(document))
    return None


_GIVEN = ("cron", "systemd", "slurm", "sbatch", "parts", "at", "printed", "yes")


def _each_start(options: Mapping[str, Any]) -> schedule.Start:
    from cluster.unattended.schedule import Start

    return Start(tuple(options["overrides"]), options["store"], options["yes"])


def _batch(spec: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    from cluster.unattended import schedule

    if not options["slurm"]:
        raise UsageError("--sbatch and --parts need --slurm", fix="add --slurm, or omit them")
    if options["cron"] is not None or options["systemd"]:
        raise UsageError("by which scheduler?", fix="give one of --cron, --systemd and --slurm")
    order = schedule.Order(options["at"], tuple(options["sbatch"]), options["parts"])
    return schedule.batch(spec, order, _each_start(options), printed=options["printed"])


def _start(
    spec: Path,
    *,
    folder: Path | None,
    log: Path | None,
    overrides: Sequence[str],
    store: Path | None,
    as_json: bool,
    **_others: Any,
) -> int:
    from cluster import api
    from cluster.unattended import detached

    context = click.get_current_context()
    if log:
        arguments = context.find_root().obj
        detached.redirect_to_log(log, arguments)
        context.meta[DETACHED] = detached.DetachedOutput(None, arguments, copy=False)
    if folder:
        os.chdir(folder)
    loaded = api.load(spec, overrides)
    with watched(False, store or loaded.store) as (observe, stop):
        result = api.start(loaded, store=store, observe=observe, stop=stop)
    return show_result(result, store or loaded.store, as_json)
