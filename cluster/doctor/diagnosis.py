"""Everything that is looked at, in order: this machine, its store, the spec, the spec's hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cluster import api
from cluster.backends.base import Options, need
from cluster.common.errors import EngineError, UsageError
from cluster.doctor import hosts, machine
from cluster.doctor.finding import Finding
from cluster.spec import Spec
from cluster.spec.points import expand

_RUN = "doctor"


def diagnosis(path: Path | None, overrides: Sequence[str], store: Path | None) -> list[Finding]:
    """What could go wrong here; with a spec, also what could go wrong with it and on its hosts.

    Raises:
        SpecError: the spec is wrong.
        UsageError: overrides without a spec.
    """
    if path is None and overrides:
        raise UsageError(
            "--set changes a spec, and none is named", fix="name it: cluster doctor SPEC"
        )
    spec = api.load(path, overrides) if path else None
    found = list(machine.findings(store or Path(spec.store if spec else "runs")))
    return found + list(_of_spec(spec, str(path))) if spec else found


def _of_spec(spec: Spec, path: str) -> Iterator[Finding]:
    points = expand(spec, yes=True) if spec.sweep else ()
    requests = [point.request for point in points] or [api.plan(spec, seconds=0).request]
    kernels = {request.source.sha: request for request in requests}.values()
    names = ", ".join(request.source.name for request in kernels)
    yield Finding("spec", "ok", f"{path} is valid: {names}")
    try:
        entry = need(spec.backend)
    except EngineError as error:
        yield Finding(spec.backend, "bad", error.message, error.fix)
        return
    if entry.hosted:
        first, *others = (request.work(_RUN) for request in kernels)
        options = replace(Options.of(spec), kernels=others)
        yield from hosts.checkup(spec.nodes, first, entry, options)


def exit_code(found: Sequence[Finding]) -> int:
    """0 where all is well; 69 where a run would not begin for want of hosts; else 1."""
    bad = {finding.check for finding in found if finding.bad}
    return EngineError.code if hosts.HOSTS in bad else int(bool(bad))
