"""What all verbs share: the group, common options, output and progress."""

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

# Key in click's ``context.meta`` of the DetachedOutput of a run without a terminal.
DETACHED = "cluster.detached"

Function = Callable[..., Any]


class _Verbs(click.Group):
    """The group of all verbs; its help comes from the lightweight table in common/commands.py."""

    def get_help(self, ctx: click.Context) -> str:
        """The text of ``cluster --help``, the same with and without click loaded."""
        return help_text()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Look up the verb.

        Raises:
            UsageError: there is no such verb; the fix names the closest one.
        """
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            fix = did_you_mean(args[0], self.commands) or "see 'cluster --help'"
            raise UsageError(f"unknown verb {args[0]!r}", fix=fix)
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="cluster %(version)s")
def group() -> None:
    """Batch Monte Carlo."""


def verb(name: str) -> Callable[[Function], click.Command]:
    """Register a function as a verb, with its line from the table and ``--json``."""
    line = VERBS[name]
    # Not str.capitalize, which would write "json schema" and "slurm".
    sentence = f"{line[0].upper()}{line[1:]}."

    def decorate(function: Function) -> click.Command:
        @functools.wraps(function)
        def called(*given: Any, **options: Any) -> Any:
            check_folder()
            return function(*given, **options)

        option = click.option(
            "--json", "as_json", is_flag=True, help="print one JSON document on stdout"
        )
        return group.command(name, help=sentence)(option(called))

    return decorate


class FolderArgument(click.Path):
    """A folder; refuses an empty name, which is what an unset shell variable expands to."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert a text to a path, neither resolved nor checked for existence.

        Args:
            value: the text of the command line, or the default.
            param: the parameter, for click's message.
            ctx: the context, for click's message.
        """
        if not str(value) or "\0" in str(value):
            self.fail(f"must be a folder, got {value!r} ('.' is the current one)", param, ctx)
        return super().convert(value, param, ctx)


store_option = click.option(
    "--store",
    type=FolderArgument(),
    default=Path("runs"),
    show_default=True,
    help="the folder that holds the ledger",
)
own_store_option = click.option(
    "--store", type=FolderArgument(), default=None, help="use this folder instead of the spec's"
)
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="override a key of the spec"
)
quiet_option = click.option("--quiet", "-q", is_flag=True, help="show no progress")
spec_argument = click.argument("spec", type=click.Path(path_type=Path))
run_argument = click.argument("run")


def answer(document: object, as_json: bool, page: Callable[[], text.Page]) -> None:
    """Print a verb's answer on stdout.

    Args:
        document: the JSON document.
        as_json: print the document instead of the page.
        page: makes the page; called only if it is printed.
    """
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        text.show(page(), sys.stdout)


def show_result(result: Result, store: str | Path, as_json: bool, *, short: bool = True) -> int:
    """Print a result, and return its exit code.

    Args:
        result: of a run or a sweep.
        store: its folder, for the commands that the page suggests.
        as_json: print the JSON document instead.
        short: of a sweep with many points, show the first ones only.
    """
    _report_end(result)
    document = result.to_json() if as_json else None
    answer(document, as_json, lambda: text.either(result, store, short=short))
    return result.exit_code


def _report_end(result: Result) -> None:
    """In a detached run, report its end to the process that started it."""
    output = click.get_current_context().meta.get(DETACHED)
    if output:
        output.ended(result)


@contextmanager
def watched(quiet: bool, store: str | Path) -> Iterator[tuple[live.Observer, Stop]]:
    """Show progress on stderr, and drain on a signal; a second signal stops at once."""
    output = click.get_current_context().meta.get(DETACHED)
    with live.observer(sys.stderr, quiet=quiet) as observe, signals() as stop:
        yield (output.observer(Path(store), observe) if output else observe), stop


def detachable(function: Function) -> Function:
    """Add ``--detach``, which runs the same command in a process of its own.

    That process gets ``--word``, the descriptor on which it reports how its start went.
    """

    @click.option("--detach", is_flag=True, help="return at once; the run continues on its own")
    @click.option("--word", type=int, hidden=True)
    @functools.wraps(function)
    def wrapper(*given: Any, detach: bool, word: int | None, **options: Any) -> Any:
        context = click.get_current_context().find_root()
        if detach:
            return _detached([w for w in context.obj if w not in ("--detach", "--json")], options)
        if word is None:
            return function(*given, **options)
        from cluster.unattended.detached import DetachedOutput

        # The last two arguments are --word and its value, which are no part of the user's command.
        output = context.meta[DETACHED] = DetachedOutput(word, context.obj[:-2], copy=True)
        try:
            return function(*given, **options)
        except BaseException as error:
            output.failed(translated(error))
            raise

    return wrapper


@contextmanager
def _kept(
    spec: Path | None, arguments: Sequence[str]
) -> Iterator[tuple[Sequence[str], IO[bytes] | None]]:
    """The arguments and standard input of a detached command.

    A pipe ends with the shell that feeds it, so a piped spec is passed on as a temporary file.
    """
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
            "the ranks of mpirun or srun end with it, so none of them can be detached",
            fix="omit --detach, or detach mpirun itself",
        )
    with _kept(options.get("spec"), arguments) as (words, stdin):
        word = launch(words, stdin)
    document = {"run": word.run, "state": word.state}
    store = options["store"] or "runs"
    answer(document, options["as_json"], lambda: text.detached(document, store))
    return word.code
