"""The verbs: read arguments, call the interface, print. Nothing is decided here."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from cluster import __version__
from cluster.dispatch import Stop
from cluster.errors import (
    ClusterError,
    Interrupted,
    StopNow,
    StoreError,
    UsageError,
    did_you_mean,
)
from cluster.report import live, stores, text
from cluster.report.result import Result
from cluster.state import State
from cluster.verbs import VERBS, help_text


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Every error ends here, in one place."""
    _complete_streams()
    try:
        with _handled(_standard_handlers()):
            return _told(arguments)
    except BrokenPipeError:
        return _reader_gone()
    except (Exception, KeyboardInterrupt, StopNow) as error:
        return _fail(_translated(error), as_json="--json" in arguments)


def refused(error: ClusterError, arguments: Sequence[str]) -> int:
    """Tell why a command could not even begin; returns the exit code."""
    return _fail(error, as_json="--json" in arguments)


def _told(arguments: Sequence[str]) -> int:
    """Have click run the verb. Its own ``main`` would end the process on a broken pipe."""
    try:
        with group.make_context("cluster", list(arguments)) as context:
            code = group.invoke(context)
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


class _Verbs(click.Group):
    """The group of all verbs: its help is the light table's, and a typo is answered."""

    def get_help(self, ctx: click.Context) -> str:
        return help_text()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            fix = did_you_mean(args[0], self.commands) or "'cluster --help' lists the verbs"
            raise UsageError(f"no verb {args[0]!r}", fix=fix)
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="cluster %(version)s")
def group() -> None:
    """Batch Monte Carlo."""


Function = Callable[..., Any]


def _verb(name: str) -> Callable[[Function], click.Command]:
    """A verb, with its line from the table and the option that all verbs have."""

    def decorate(function: Function) -> click.Command:
        option = click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
        return group.command(name, help=f"{VERBS[name].capitalize()}.")(option(function))

    return decorate


def _seconds(_context: click.Context, _option: click.Parameter, value: str | None) -> float | None:
    """A time as the spec writes it."""
    from pydantic_core import PydanticCustomError

    from cluster.spec.values import Duration

    if value is None:
        return None
    try:
        return Duration().check(value)
    except PydanticCustomError as error:
        raise click.BadParameter(error.message()) from None


_store = click.option(
    "--store", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="folder of the ledger",
)  # fmt: skip
_own_store = click.option(
    "--store", type=click.Path(path_type=Path), default=None, help="instead of the spec's"
)
_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="override a key of the spec"
)
_quiet = click.option("--quiet", "-q", is_flag=True, help="no progress")
_spec = click.argument("spec", type=click.Path(path_type=Path))
_run = click.argument("run")


@_verb("submit")
@_spec
@_overrides
@click.option("--resume", is_flag=True, help="go on with the newest run of this request, if any")
@click.option("--task-blocks", type=click.IntRange(min=1), help="pin the length of every task")
@_own_store
@_quiet
def _submit(
    spec: Path, overrides: Sequence[str], resume: bool, task_blocks: int | None,
    store: Path | None, quiet: bool, as_json: bool,
) -> int:  # fmt: skip
    from cluster import api

    loaded = api.load(spec, overrides)
    with _watched(quiet, as_json) as (observe, stop):
        result = api.submit(
            loaded, resume=resume, store=store, observe=observe, stop=stop, pinned=task_blocks
        )
    return _show_result(result, store or loaded.store, as_json)


@_verb("resume")
@_run
@_overrides
@_store
@_quiet
def _resume(run: str, overrides: Sequence[str], store: Path, quiet: bool, as_json: bool) -> int:
    from cluster import api

    with _watched(quiet, as_json) as (observe, stop):
        result = api.resume(run, store, overrides=overrides, observe=observe, stop=stop)
    return _show_result(result, store, as_json)


@_verb("extend")
@_run
@click.option("--samples", help="so many samples in all")
@_overrides
@_store
@_quiet
def _extend(
    run: str, samples: str | None, overrides: Sequence[str], store: Path, quiet: bool,
    as_json: bool,
) -> int:  # fmt: skip
    from cluster import api

    goals = (*([f"samples={samples}"] if samples else []), *overrides)
    if not goals:
        raise UsageError("extend to what?", fix="--samples N, or --set until.half_width=H")
    with _watched(quiet, as_json) as (observe, stop):
        result = api.extend(run, store, overrides=goals, observe=observe, stop=stop)
    return _show_result(result, store, as_json)


@_verb("validate")
@_spec
@_overrides
@click.option("--yes", is_flag=True, help="more than 100,000 points of a sweep are meant")
def _validate(spec: Path, overrides: Sequence[str], yes: bool, as_json: bool) -> None:
    from cluster import api

    loaded = api.load(spec, overrides)
    if loaded.sweep is not None:
        from cluster.sweep import expand

        points = len(expand(loaded, yes=yes))
        counted = {"valid": True, "file": str(spec), "name": loaded.name, "points": points}
        _answer(counted, as_json, lambda: text.validated_sweep(counted))
        return
    outlook = api.plan(loaded, seconds=0)
    plan = outlook.to_json()
    document = {
        "valid": True,
        "file": str(spec),
        **{key: plan[key] for key in ("name", "kernel", "identity", "blocks", "samples", "target")},
    }
    _answer(document, as_json, lambda: text.validated(document))


@_verb("plan")
@_spec
@_overrides
@click.option("--seconds", type=click.FloatRange(min=0), default=2.0, show_default=True,
              help="length of the trial; 0: none")  # fmt: skip
def _plan(spec: Path, overrides: Sequence[str], seconds: float, as_json: bool) -> None:
    from cluster import api

    if not math.isfinite(seconds):
        raise UsageError(f"--seconds must be a length of time, got {seconds}")
    document = api.plan(api.load(spec, overrides), seconds).to_json()
    _answer(document, as_json, lambda: text.plan(document))


@_verb("ls")
@_store
def _ls(store: Path, as_json: bool) -> None:
    from cluster import api

    rows = [standing.to_json() for standing in api.runs(store)]
    _answer(rows, as_json, lambda: text.ls(rows))


@_verb("status")
@click.argument("run", required=False)
@_store
def _status(run: str | None, store: Path, as_json: bool) -> None:
    from cluster import api

    if run is not None:
        document = api.status(run, store).to_json()
    else:
        rows = [standing.to_json() for standing in api.runs(store)]
        document = {"runs": [row for row in rows if row["state"] == "running"]}
    _answer(document, as_json, lambda: text.status(document))


@_verb("show")
@_run
@_store
def _show(run: str, store: Path, as_json: bool) -> None:
    from cluster import api

    result = api.show(run, store)
    _answer(result.to_json(), as_json, lambda: text.result(result, store))


@_verb("repro")
@_run
@click.option("--block", type=click.IntRange(min=0), required=True, help="the block's index")
@_store
def _repro(run: str, block: int, store: Path, as_json: bool) -> int:
    from cluster import api

    repro = api.repro(run, block, store)
    document = repro.to_json()
    _answer(document, as_json, lambda: text.repro(document))
    return 1 if repro.fault or repro.matches is False else 0


@_verb("verify")
@_run
@click.option("--fraction", type=float, default=0.01, show_default=True, help="of the blocks")
@click.option("--seed", type=int, default=0, show_default=True, help="of the choice of blocks")
@_overrides
@_store
@_quiet
def _verify(
    run: str, fraction: float, seed: int, overrides: Sequence[str], store: Path, quiet: bool,
    as_json: bool,
) -> int:  # fmt: skip
    from cluster.verify import verify

    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    with _watched(quiet=True, as_json=as_json) as (_, stop):
        found = verify(run, fraction, store, seed=seed, overrides=overrides, tell=tell, stop=stop)
    document = found.to_json()
    _answer(document, as_json, lambda: stores.verified(document))
    if found.differing:
        return 1
    return State.PARTIAL.exit_code() if found.unchecked else 0


@_verb("export")
@_run
@click.option("--blocks", required=True, metavar="A-B", help="the blocks, both included")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="the shard's folder")
@_store
def _export(run: str, blocks: str, to: Path, store: Path, as_json: bool) -> None:
    from cluster.shards import export

    document = export(run, blocks, to, store).to_json()
    _answer(document, as_json, lambda: stores.exported(document))


@_verb("merge")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="compare what is counted twice, bit for bit")
def _merge(out: Path, sources: Sequence[Path], verify: bool, as_json: bool) -> int:
    from cluster.shards import merge

    merged = merge(out, sources, verify=verify)
    document = merged.to_json()
    _answer(document, as_json, lambda: stores.merged(document))
    return 1 if merged.differs else 0


@_verb("gc")
@click.option("--older-than", callback=_seconds, metavar="TIME", help="begun before, such as 30d")
@click.option("--keep", type=click.IntRange(min=0), help="the newest so many of each name stay")
@click.option("--yes", is_flag=True, help="do not ask")
@_store
def _gc(
    older_than: float | None, keep: int | None, yes: bool, store: Path, as_json: bool
) -> int:  # fmt: skip
    from cluster.prune import prunable, prune

    old = prunable(store, older=older_than, keep=keep)
    rows = [run.to_json() for run in old]
    if rows and not yes:
        text.show(stores.prunable(rows), sys.stderr)
        if not sys.stdin.isatty():
            raise UsageError("nobody is here to be asked", fix="--yes removes these runs for good")
        if not click.confirm(f"remove {len(rows)} runs for good?", err=True):
            rows, old = [], []
    document = {"removed": prune(old, store)}
    _answer(document, as_json, lambda: stores.pruned(document))
    return 0


@_verb("kernels")
@click.argument("places", nargs=-1, type=click.Path(path_type=Path))
def _kernels(places: Sequence[Path], as_json: bool) -> None:
    from cluster.kernels import listing

    rows = listing(places or (Path("jobs"),))
    _answer(rows, as_json, lambda: text.kernels(rows))


@_verb("backends")
def _backends(as_json: bool) -> None:
    from cluster.backends.base import TABLE

    rows = [
        {"backend": e.name, "usable": e.usable, "summary": e.summary, "install": e.install}
        for e in TABLE
    ]
    _answer(rows, as_json, lambda: text.backends(rows))


@_verb("schema")
def _schema(as_json: bool) -> None:
    from cluster.spec import schema

    click.echo(json.dumps(schema(), indent=2))


@_verb("doctor")
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@_overrides
@_own_store
def _doctor(spec: Path | None, overrides: Sequence[str], store: Path | None, as_json: bool) -> int:
    from cluster.doctor.diagnosis import diagnosis, exit_code

    found = diagnosis(spec, overrides, store)
    document = {"findings": [finding.to_json() for finding in found]}
    _answer(document, as_json, lambda: text.doctor(document))
    return exit_code(found)


def _answer(document: object, as_json: bool, page: Callable[[], text.Page]) -> None:
    """Print a verb's answer: the document, or its page in the terminal's way."""
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        text.show(page(), sys.stdout)


def _show_result(result: Result, store: str | Path, as_json: bool) -> int:
    _answer(result.to_json(), as_json, lambda: text.result(result, store))
    return result.exit_code


@contextmanager
def _watched(quiet: bool, as_json: bool) -> Iterator[tuple[live.Observer, Stop]]:
    """Progress on stderr, and signals that drain: the second one stops at once."""
    with live.observer(sys.stderr, quiet=quiet) as observe, _signals() as stop:
        yield observe, stop


@contextmanager
def _signals() -> Iterator[Stop]:
    stop = Stop()

    def handle(number: int, _frame: object) -> None:
        if stop.reason is not None:
            raise StopNow(number)
        stop.reason = signal.Signals(number).name

    # SIGUSR1 is what Slurm and mpirun can send to warn a job; by itself it would end the process.
    taken = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    # nohup ignores SIGHUP on the person's behalf; only where nobody did does it mean "stop".
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        taken.append(signal.SIGHUP)
    with _handled(dict.fromkeys(taken, handle)):
        yield stop


Handlers = Mapping[signal.Signals, Callable[[int, Any], object]]


def _standard_handlers() -> Handlers:
    """What a signal does to a verb that nothing has to be saved for: it ends, and says so.

    KeyboardInterrupt would not do: where kernels run in this process it could be one of theirs.
    """

    def handle(number: int, _frame: object) -> None:
        raise StopNow(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    return {number: handle for number in numbers if signal.getsignal(number) != signal.SIG_IGN}


@contextmanager
def _handled(handlers: Handlers) -> Iterator[None]:
    """Signal handlers for a while; Python allows them in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _translated(error: BaseException) -> ClusterError:
    """Any error as one of ours."""
    match error:
        case ClusterError():
            return error
        case click.UsageError():
            where = error.ctx.command_path if error.ctx else "cluster"
            return UsageError(error.format_message(), fix=f"'{where} --help' shows how it is used")
        case OSError():
            return StoreError(f"input or output failed: {error}")
        case StopNow():
            return Interrupted(*error.args)
        case KeyboardInterrupt():
            return Interrupted()
    traceback.print_exception(error)
    what = f"a fault of cluster itself: {type(error).__name__}: {error}"
    return ClusterError(what, fix="please report it, with the lines above")


def _fail(error: ClusterError, as_json: bool) -> int:
    """Tell an error: as the one document on stdout, else in words on stderr."""
    with suppress(OSError):
        if as_json and _printed(json.dumps(error.to_json(), indent=2)):
            return error.code
        for line in text.error(error):
            click.echo(line, err=True)
    with suppress(OSError):
        _let_go_of_stdout()
    return error.code


def _printed(line: str) -> bool:
    """Print on stdout; False where it cannot be written."""
    try:
        click.echo(line)
        sys.stdout.flush()
    except OSError:
        _reader_gone()
        return False
    return True


def _let_go_of_stdout() -> None:
    """Write out what stdout still holds, or forget it: Python would try again at its own end."""
    try:
        sys.stdout.flush()
    except OSError:
        _reader_gone()


def _reader_gone() -> int:
    """Whoever read our output has left (``| head``): end quietly, with the shell's own code."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _complete_streams() -> None:
    """Give a process that was started without standard streams (``>&-``) empty ones.

    Else the next file that is opened takes their numbers, and what a kernel prints goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
