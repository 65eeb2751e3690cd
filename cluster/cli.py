"""The verbs: read arguments, call the interface, print. Nothing is decided here."""

from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster import __version__
from cluster.console import (
    complete_streams,
    fail,
    handled,
    reader_gone,
    signals,
    standard_handlers,
    translated,
)
from cluster.dispatch import Stop
from cluster.errors import (
    ClusterError,
    StopNow,
    UsageError,
    did_you_mean,
)
from cluster.report import live, stores, swept, text
from cluster.report.result import Result
from cluster.report.swept import SweepResult
from cluster.state import State
from cluster.verbs import VERBS, help_text

if TYPE_CHECKING:
    from cluster.spec import Spec

_LOOK = 0.2


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


# Where click's context keeps the voice of a run without a terminal.
_VOICE = "cluster.voice"


def _detachable(function: Function) -> Function:
    """A verb that can compute without a terminal: ``--detach`` starts it anew, on its own."""

    @click.option("--detach", is_flag=True, help="return at once; the run goes on by itself")
    @click.option("--word", type=int, hidden=True)
    @functools.wraps(function)
    def wrapper(*given: Any, detach: bool, word: int | None, **options: Any) -> Any:
        context = click.get_current_context().find_root()
        if detach:
            return _detached([w for w in context.obj if w not in ("--detach", "--json")], options)
        if word is None:
            return function(*given, **options)
        from cluster.away import Voice

        voice = context.meta[_VOICE] = Voice(word, context.obj[:-2], copy=True)
        try:
            return function(*given, **options)
        except BaseException as error:
            voice.failed(translated(error))
            raise

    return wrapper


def _detached(arguments: Sequence[str], options: Mapping[str, Any]) -> int:
    from cluster.away import launch
    from cluster.backends.base import seat

    if seat() is not None:
        raise UsageError(
            "the ranks of mpirun or srun end with it: none goes on by itself",
            fix="leave --detach out, or detach mpirun itself",
        )
    word = launch(arguments)
    document = {"run": word.run, "state": word.state}
    store = options["store"] or "runs"
    _answer(document, options["as_json"], lambda: text.detached(document, store))
    return word.code


def _sweep_options(function: Function) -> Function:
    """What ``submit`` takes for a sweep."""
    going = click.option("--keep-going/--fail-fast", default=None,
                         help="sweep: whether a failed point stops the others")  # fmt: skip
    part = click.option("--points", metavar="K/N", help="sweep: the K-th of N parts of its points")
    yes = click.option("--yes", is_flag=True, help="sweep: more than 100,000 points are meant")
    return going(part(yes(function)))


@_verb("submit")
@_spec
@_overrides
@_sweep_options
@click.option("--resume", is_flag=True, help="go on with the newest run of this request, if any")
@click.option("--task-blocks", type=click.IntRange(min=1), help="pin the length of every task")
@_own_store
@_quiet
@_detachable
def _submit(
    spec: Path, overrides: Sequence[str], resume: bool, task_blocks: int | None,
    store: Path | None, quiet: bool, as_json: bool, **of_sweep: Any,
) -> int:  # fmt: skip
    from cluster import api

    loaded = api.load(spec, overrides)
    if loaded.sweep is not None:
        return _submit_sweep(loaded, of_sweep, store, task_blocks, quiet, as_json)
    given = {"--points": of_sweep["points"], "--yes": of_sweep["yes"] or None,
             "--keep-going or --fail-fast": of_sweep["keep_going"]}  # fmt: skip
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} is for a sweep, and the spec has none")
    with _watched(quiet, store or loaded.store) as (observe, stop):
        result = api.submit(
            loaded, resume=resume, store=store, observe=observe, stop=stop, pinned=task_blocks
        )
    return _show_result(result, store or loaded.store, as_json)


def _submit_sweep(
    spec: Spec, options: Mapping[str, Any], store: Path | None, pinned: int | None, quiet: bool,
    as_json: bool,
) -> int:  # fmt: skip
    from cluster import sweeping

    part = None if options["points"] is None else sweeping.Part.read(options["points"])
    with _watched(quiet, store or spec.store) as (observe, stop):
        result = sweeping.submit(
            spec, sweeping.Caller(observe, stop, options["keep_going"]), part=part,
            yes=options["yes"], store=store, pinned=pinned,
        )  # fmt: skip
    return _show_sweep(result, as_json, short=True)


@_verb("resume")
@_run
@_overrides
@_store
@_quiet
@_detachable
def _resume(run: str, overrides: Sequence[str], store: Path, quiet: bool, as_json: bool) -> int:
    from cluster import api, sweeping

    if sweep := sweeping.find(run, store):
        with _watched(quiet, store) as (observe, stop):
            caller = sweeping.Caller(observe, stop)
            together = sweeping.resume(sweep, store, caller, overrides=overrides)
        return _show_sweep(together, as_json, short=True)
    with _watched(quiet, store) as (observe, stop):
        result = api.resume(run, store, overrides=overrides, observe=observe, stop=stop)
    return _show_result(result, store, as_json)


@_verb("extend")
@_run
@click.option("--samples", help="so many samples in all")
@_overrides
@_store
@_quiet
@_detachable
def _extend(
    run: str, samples: str | None, overrides: Sequence[str], store: Path, quiet: bool,
    as_json: bool,
) -> int:  # fmt: skip
    from cluster import api

    goals = (*([f"samples={samples}"] if samples else []), *overrides)
    if not goals:
        raise UsageError("extend to what?", fix="--samples N, or --set until.half_width=H")
    with _watched(quiet, store) as (observe, stop):
        result = api.extend(run, store, overrides=goals, observe=observe, stop=stop)
    return _show_result(result, store, as_json)


@_verb("schedule")
@_spec
@click.option("--cron", metavar="TIMES", help="a line in the crontab, such as '0 22 * * 1-5'")
@click.option("--systemd", is_flag=True, help="a service and a timer of the user's systemd")
@click.option("--slurm", is_flag=True, help="a batch script that requeues itself")
@click.option("--sbatch", multiple=True, metavar="OPTION", help="for Slurm, as time=2:00:00")
@click.option("--parts", type=int, metavar="N", help="for Slurm: an array, a sweep in N parts")
@click.option("--at", metavar="EVENT", help="for systemd, else when the window opens; for scrontab")
@click.option("--print", "printed", is_flag=True, help="show what would be written, no more")
@click.option("--remove", is_flag=True, help="take it away, wherever it is")
@click.option("--start", is_flag=True, help="one start: what the scheduler runs")
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--log", type=click.Path(path_type=Path), hidden=True)
@_overrides
@_own_store
def _schedule(spec: Path, start: bool, remove: bool, as_json: bool, **options: Any) -> int | None:
    if start:
        return _start(spec, as_json=as_json, **options)
    from cluster import schedule

    if remove:
        document = schedule.remove(spec)
    elif options["slurm"] or options["sbatch"] or options["parts"] is not None:
        document = _batch(spec, options)
    else:
        document = schedule.put(spec, **{k: v for k, v in options.items() if k in _ASKED})
    _answer(document, as_json, lambda: text.scheduled(document))
    return None


_ASKED = ("cron", "systemd", "at", "printed", "overrides", "store")


def _batch(spec: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    from cluster import schedule

    if not options["slurm"]:
        raise UsageError("--sbatch and --parts are for Slurm", fix="leave them out, or --slurm")
    if options["cron"] is not None or options["systemd"]:
        raise UsageError("by which scheduler?", fix="give one of --cron, --systemd and --slurm")
    order = schedule.Order(options["at"], tuple(options["sbatch"]), options["parts"])
    where = {name: options[name] for name in ("printed", "overrides", "store")}
    return schedule.batch(spec, order, **where)


def _start(
    spec: Path, *, folder: Path | None, log: Path | None, overrides: Sequence[str],
    store: Path | None, as_json: bool, **_others: Any,
) -> int:  # fmt: skip
    from cluster import api, away

    context = click.get_current_context()
    if log:
        arguments = context.find_root().obj
        away.speak_into(log, arguments)
        context.meta[_VOICE] = away.Voice(None, arguments, copy=False)
    if folder:
        os.chdir(folder)
    loaded = api.load(spec, overrides)
    if loaded.sweep is not None:
        sent = {"points": None, "keep_going": None, "yes": True}
        return _submit_sweep(loaded, sent, store, None, False, as_json)
    with _watched(False, store or loaded.store) as (observe, stop):
        result = api.start(loaded, store=store, observe=observe, stop=stop)
    return _show_result(result, store or loaded.store, as_json)


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
@click.option("--yes", is_flag=True, help="more than 100,000 points of a sweep are meant")
def _plan(spec: Path, overrides: Sequence[str], seconds: float, yes: bool, as_json: bool) -> None:
    from cluster import api

    if not math.isfinite(seconds):
        raise UsageError(f"--seconds must be a length of time, got {seconds}")
    loaded = api.load(spec, overrides)
    if loaded.sweep is not None:
        from cluster import sweeping

        of_sweep = sweeping.plan(loaded, seconds, yes=yes)
        _answer(of_sweep, as_json, lambda: text.sweep_plan(of_sweep))
        return
    document = api.plan(loaded, seconds).to_json()
    _answer(document, as_json, lambda: text.plan(document))


@_verb("nodes")
@click.argument("spec_or_run", metavar="SPEC|RUN")
@click.option(
    "--add",
    multiple=True,
    metavar="HOSTS",
    help="of a run: hosts to work on as well, such as h4:2 or '{host: h4, slots: 2}'",
)
@click.option(
    "--drain",
    multiple=True,
    metavar="HOSTS",
    help="of a run: hosts to use no more; what they have is finished and counted",
)
@_overrides
@_store
def _nodes(
    spec_or_run: str, add: Sequence[str], drain: Sequence[str], overrides: Sequence[str],
    store: Path, as_json: bool,
) -> None:  # fmt: skip
    from cluster import api

    if add or drain:
        document = api.change_nodes(spec_or_run, store, add=add, drain=drain)
    else:
        document = api.hosts(api.load(spec_or_run, overrides))
    _answer(document, as_json, lambda: text.hosts(document))


@_verb("ls")
@_store
def _ls(store: Path, as_json: bool) -> None:
    from cluster import sweeping

    rows = [standing.to_json() for standing in sweeping.standings(store)]
    _answer(rows, as_json, lambda: text.ls(rows))


@_verb("status")
@click.argument("run", required=False)
@_store
def _status(run: str | None, store: Path, as_json: bool) -> None:
    from cluster import sweeping

    if run is not None:
        document = _standing(run, store)
    else:
        rows = [standing.to_json() for standing in sweeping.standings(store)]
        document = {"runs": [row for row in rows if row["state"] == "running"]}
    _answer(document, as_json, lambda: text.status(document))


def _standing(run: str, store: Path) -> dict[str, Any]:
    """Where a run, or a sweep, stands."""
    from cluster import api, sweeping

    sweep = sweeping.find(run, store)
    return (sweeping.status(sweep, store) if sweep else api.status(run, store)).to_json()


@_verb("show")
@_run
@_store
@click.option("--csv", "as_csv", is_flag=True, help="sweep: its table as CSV")
@click.option("--parquet", type=click.Path(path_type=Path), metavar="FILE",
              help="sweep: write its table as a Parquet file")  # fmt: skip
def _show(run: str, store: Path, as_csv: bool, parquet: Path | None, as_json: bool) -> None:
    from cluster import api, sweeping

    if sweep := sweeping.find(run, store):
        together = sweeping.show(sweep, store)
        if parquet is not None:
            swept.write_parquet(together, parquet)
        if as_csv:
            click.echo(swept.csv_text(together), nl=False)
        elif as_json or parquet is None:
            _show_sweep(together, as_json)
        return
    if as_csv or parquet is not None:
        raise UsageError(f"{run} is no sweep", fix="--csv and --parquet show the table of a sweep")
    result = api.show(run, store)
    _answer(result.to_json(), as_json, lambda: text.result(result, store))


@_verb("watch")
@_run
@_store
def _watch(run: str, store: Path, as_json: bool) -> int:
    from cluster import away

    with live.observer(sys.stderr) as observe:
        result = away.follow(run, store, observe)
    return _show_either(result, store, as_json)


@_verb("logs")
@_run
@click.option("--follow", "-f", is_flag=True, help="and what is added, until the run ends")
@_store
def _logs(run: str, follow: bool, store: Path, as_json: bool) -> None:
    from cluster import api, away, sweeping
    from cluster.ledger import log_of

    name = sweeping.find(run, store) or api.status(run, store).run
    pieces = away.tail(name, store, onward=follow)
    if as_json:
        path = str(log_of(name, store))
        _answer({"run": name, "path": path, "text": "".join(pieces)}, as_json, list)
        return
    for piece in pieces:
        click.echo(piece, nl=False)


_timeout = click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="wait no longer; then 75"
)


@_verb("wait")
@_run
@_timeout
@_store
def _wait(run: str, timeout: float | None, store: Path, as_json: bool) -> int:
    from cluster import away

    return _show_either(away.follow(run, store, timeout=timeout), store, as_json)


@_verb("attach")
@_run
@_store
def _attach(run: str, store: Path, as_json: bool) -> int:
    from cluster import away

    # Only Ctrl-C is passed on: a terminal that closes takes nothing along but the view.
    with live.observer(sys.stderr) as observe, signals(signal.SIGINT) as stop:
        result = away.attach(run, store, observe, stop)
    return _show_either(result, store, as_json)


@_verb("stop")
@_run
@click.option("--now", is_flag=True, help="what was started is not finished")
@click.option("--timeout", type=click.FloatRange(min=0), default=60.0, show_default=True,
              metavar="SECONDS", help="for what was started to be finished")  # fmt: skip
@_store
def _stop(run: str, now: bool, timeout: float, store: Path, as_json: bool) -> None:
    from cluster import away

    document = _standing(away.halt(run, store, now=now, timeout=timeout), store)
    _answer(document, as_json, lambda: text.status(document))


@_verb("compare")
@click.argument("a")
@click.argument("b")
@_store
def _compare(a: str, b: str, store: Path, as_json: bool) -> int:
    from cluster import sweeping

    found = sweeping.compare(a, b, store)
    document = {"pairs": [each.to_json() for each in found]}
    _answer(document, as_json, lambda: text.compare(document))
    return 1 if any(each.verdict == "differ" for each in found) else 0


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

    with _watched(True, store) as (_, stop):
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


@_verb("node")
@click.option(
    "--port",
    type=click.IntRange(1, 65_534),
    required=True,
    help="where to listen; the run's dispynode is at the next one",
)
@click.option("--secret-file", type=click.Path(), help="holds the secret; mode 0600")
@click.option("--secret-env", metavar="NAME", help="or the variable that holds it")
@click.option("--address", help="of this machine, to listen at; without it, what its name is for")
@click.option("--slots", type=click.IntRange(min=1), help="at most so many workers")
def _node(
    port: int, secret_file: str | None, secret_env: str | None, address: str | None,
    slots: int | None, as_json: bool,
) -> None:  # fmt: skip
    from cluster.backends.base import need
    from cluster.backends.dispy.standing import Standing, own_address
    from cluster.secret import Secret

    need("dispy")
    if (secret_file is None) is (secret_env is None):
        raise UsageError("a node needs one secret", fix="--secret-file FILE or --secret-env NAME")
    secret = Secret(secret_env, secret_file).read()
    node = Standing(address or own_address(), port, secret, slots, tell=_say)
    with signals() as stop:
        document = node.listening._asdict()
        _answer(document, as_json, lambda: text.node(document))
        sys.stdout.flush()
        node.open()
        while stop.reason is None:
            time.sleep(_LOOK)
        node.close()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _answer(document: object, as_json: bool, page: Callable[[], text.Page]) -> None:
    """Print a verb's answer: the document, or its page in the terminal's way."""
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        text.show(page(), sys.stdout)


def _show_result(result: Result, store: str | Path, as_json: bool) -> int:
    _end_voice(result)
    _answer(result.to_json(), as_json, lambda: text.result(result, store))
    return result.exit_code


def _show_either(result: Result | SweepResult, store: Path, as_json: bool) -> int:
    if isinstance(result, SweepResult):
        return _show_sweep(result, as_json, short=True)
    return _show_result(result, store, as_json)


def _show_sweep(result: SweepResult, as_json: bool, *, short: bool = False) -> int:
    _end_voice(result)
    document = result.to_json() if as_json else None
    _answer(document, as_json, lambda: text.sweep(result, short=short))
    return result.exit_code


def _end_voice(result: Result | SweepResult) -> None:
    """Tell how it ended, to whoever started it detached."""
    voice = click.get_current_context().meta.get(_VOICE)
    if voice:
        voice.ended(result)


@contextmanager
def _watched(quiet: bool, store: str | Path) -> Iterator[tuple[live.Observer, Stop]]:
    """Progress on stderr, and signals that drain: the second one stops at once."""
    voice = click.get_current_context().meta.get(_VOICE)
    with live.observer(sys.stderr, quiet=quiet) as observe, signals() as stop:
        yield (voice.observer(Path(store), observe) if voice else observe), stop
