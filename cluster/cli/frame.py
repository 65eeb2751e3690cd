"""What all verbs have in common: the group, their options, how they print and are watched."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click

from cluster.cli.console import check_folder, signals, translated
from cluster.common.commands import VERBS, help_text
from cluster.common.errors import UsageError, did_you_mean
from cluster.common.version import __version__
from cluster.dispatch import Stop
from cluster.report import live, text
from cluster.report.result import Result

# Where click's context keeps the voice of a run without a terminal.
VOICE = "cluster.voice"

Function = Callable[..., Any]


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


def verb(name: str) -> Callable[[Function], click.Command]:
    """A verb, with its line from the table and the option that all verbs have."""

    def decorate(function: Function) -> click.Command:
        @functools.wraps(function)
        def called(*given: Any, **options: Any) -> Any:
            check_folder()
            return function(*given, **options)

        option = click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
        return group.command(name, help=f"{VERBS[name].capitalize()}.")(option(called))

    return decorate


class FolderArgument(click.Path):
    """The name of a folder; an empty one, as of a variable that is not set, is none."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, as it was written."""
        if not str(value) or "\0" in str(value):
            self.fail(f"must be a folder, got {value!r} (a dot is the one you are in)", param, ctx)
        return super().convert(value, param, ctx)


store_option = click.option(
    "--store",
    type=FolderArgument(),
    default=Path("runs"),
    show_default=True,
    help="folder of the ledger",
)
own_store_option = click.option(
    "--store", type=FolderArgument(), default=None, help="instead of the spec's"
)
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="override a key of the spec"
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="no progress")
spec_argument = click.argument("spec", type=click.Path(path_type=Path))
run_argument = click.argument("run")


def answer(document: object, as_json: bool, page: Callable[[], text.Page]) -> None:
    """Print a verb's answer: the document, or its page in the terminal's way."""
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        text.show(page(), sys.stdout)


def show_result(result: Result, store: str | Path, as_json: bool, *, short: bool = True) -> int:
    """Print how a run or a sweep stands, ``short`` as for :func:`text.sweep`; the exit code."""
    _end_voice(result)
    document = result.to_json() if as_json else None
    answer(document, as_json, lambda: text.either(result, store, short=short))
    return result.exit_code


def _end_voice(result: Result) -> None:
    """Tell how it ended, to whoever started it detached."""
    voice = click.get_current_context().meta.get(VOICE)
    if voice:
        voice.ended(result)


@contextmanager
def watched(quiet: bool, store: str | Path) -> Iterator[tuple[live.Observer, Stop]]:
    """Progress on stderr, and signals that drain: the second one stops at once."""
    voice = click.get_current_context().meta.get(VOICE)
    with live.observer(sys.stderr, quiet=quiet) as observe, signals() as stop:
        yield (voice.observer(Path(store), observe) if voice else observe), stop


def detachable(function: Function) -> Function:
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
        from cluster.unattended.detached import DetachedOutput

        voice = context.meta[VOICE] = DetachedOutput(word, context.obj[:-2], copy=True)
        try:
            return function(*given, **options)
        except BaseException as error:
            voice.failed(translated(error))
            raise

    return wrapper


@contextmanager
def _kept(
    spec: Path | None, arguments: Sequence[str]
) -> Iterator[tuple[Sequence[str], IO[bytes] | None]]:
    """The arguments and standard input of a detached command; a piped spec goes along in a file."""
    from cluster.spec import is_stream, text_of

    if spec is None or not is_stream(spec):
        yield arguments, None
        return
    with tempfile.TemporaryFile() as text:
        text.write(text_of(spec))
        text.seek(0)
        yield ["-" if Path(word) == spec else word for word in arguments], text


def _detached(arguments: Sequence[str], options: Mapping[str, Any]) -> int:
    from cluster.backends.base import launched_world
    from cluster.unattended.detached import launch

    if launched_world() is not None:
        raise UsageError(
            "the ranks of mpirun or srun end with it: none goes on by itself",
            fix="leave --detach out, or detach mpirun itself",
        )
    with _kept(options.get("spec"), arguments) as (words, stdin):
        word = launch(words, stdin)
    document = {"run": word.run, "state": word.state}
    store = options["store"] or "runs"
    answer(document, options["as_json"], lambda: text.detached(document, store))
    return word.code
