"""The verbs for hosts, kernels and the installed backends."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from cluster.cli.console import signals
from cluster.cli.frame import answer, overrides_option, own_store_option, store_option, verb
from cluster.common.errors import UsageError
from cluster.report import text


@verb("nodes")
@click.argument("spec_or_run", metavar="SPEC|RUN")
@click.option(
    "--add",
    multiple=True,
    metavar="HOSTS",
    help="running run or sweep: use these hosts too, such as h4:2 or '{host: h4, slots: 2}'",
)
@click.option(
    "--drain",
    multiple=True,
    metavar="HOSTS",
    help="running run or sweep: release these hosts once their current tasks are finished",
)
@overrides_option
@store_option
def _nodes(
    spec_or_run: str,
    add: Sequence[str],
    drain: Sequence[str],
    overrides: Sequence[str],
    store: Path,
    as_json: bool,
) -> None:
    from cluster import api

    if add or drain:
        document = api.change_nodes(spec_or_run, store, add=add, drain=drain)
    else:
        document = api.hosts(api.load(spec_or_run, overrides))
    answer(document, as_json, lambda: text.hosts(document))


@verb("kernels")
@click.argument("places", nargs=-1, type=click.Path(path_type=Path))
def _kernels(places: Sequence[Path], as_json: bool) -> None:
    from cluster.sampling.kernels import listing

    rows = listing(places or (Path("jobs"),))
    answer(rows, as_json, lambda: text.kernels(rows))


@verb("backends")
def _backends(as_json: bool) -> None:
    from cluster.backends.base import proven
    from cluster.common.engines import entries

    rows = [
        {
            "backend": e.name,
            "usable": e.usable,
            "summary": e.summary,
            "install": e.install,
            "package": e.package or None,
            "problem": e.trouble or e.note or None,
        }
        for e in map(proven, entries())
    ]
    answer(rows, as_json, lambda: text.backends(rows))


@verb("schema")
def _schema(as_json: bool) -> None:
    from cluster.common.engines import entries
    from cluster.spec import schema

    click.echo(json.dumps(schema(entries()), indent=2))


@verb("doctor")
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@overrides_option
@own_store_option
def _doctor(spec: Path | None, overrides: Sequence[str], store: Path | None, as_json: bool) -> int:
    from cluster.doctor.diagnosis import diagnosis, exit_code

    found = diagnosis(spec, overrides, store)
    document = {"findings": [finding.to_json() for finding in found]}
    answer(document, as_json, lambda: text.doctor(document))
    return exit_code(found)


# Seconds between two checks for a signal.
_POLL = 0.2


@verb("node")
@click.option(
    "--port",
    type=click.IntRange(1, 65_534),
    required=True,
    help="port to listen on; a process of a run takes the next one",
)
@click.option("--secret-file", type=click.Path(), help="file with the secret; its mode is 0600")
@click.option("--secret-env", metavar="NAME", help="environment variable with the secret")
@click.option("--address", help="address to listen on; default: that of the host name")
@click.option("--slots", type=click.IntRange(min=1), help="maximum number of workers")
def _node(
    port: int,
    secret_file: str | None,
    secret_env: str | None,
    address: str | None,
    slots: int | None,
    as_json: bool,
) -> None:
    from cluster.backends.base import node_that_stands
    from cluster.common.secret import Secret

    made = node_that_stands()
    if (secret_file is None) is (secret_env is None):
        raise UsageError("a node needs one secret", fix="--secret-file FILE or --secret-env NAME")
    secret = Secret(secret_env, secret_file).read()
    node = made(address, port, secret, slots, tell=_say)
    with signals() as stop:
        document = node.listening._asdict()
        answer(document, as_json, lambda: text.node(document))
        sys.stdout.flush()
        node.open()
        while stop.reason is None:  # a signal ends the sleep, but Python then resumes it
            time.sleep(_POLL)
        node.close()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
