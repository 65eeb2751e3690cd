"""All checks in order: this machine, its store, the spec, and the hosts of the spec."""

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

# Stands for a run's id in the work that is probed on hosts; there is no such run.
_RUN = "doctor"


def diagnosis(path: Path | None, overrides: Sequence[str], store: Path | None) -> list[Finding]:
    """Check this machine and a store; with a spec, also the spec and its hosts.

    Args:
        path: the spec's file, or None.
        overrides: ``key=value`` texts that change the spec.
        store: the folder of the ledger; None: that of the spec, or ``runs``.

    Raises:
        SpecError: the spec is invalid.
        UsageError: there are overrides but no spec.
    """
    if path is None and overrides:
        raise UsageError(
            "--set overrides keys of a spec, but no spec is given",
            fix="name it: cluster doctor SPEC",
        )
    spec = api.load(path, overrides) if path else None
    found = list(machine.findings(store or Path(spec.store if spec else "runs")))
    return found + list(_of_spec(spec, str(path))) if spec else found


def _of_spec(spec: Spec, path: str) -> Iterator[Finding]:
    points = expand(spec, yes=True) if spec.sweep else ()
    requests = [point.request for point in points] or [api.plan(spec, seconds=0).request]
    # One probe for each kernel: a sweep may have thousands of points of the same one.
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
    """0 if nothing is bad, 69 if a run could not start for lack of hosts, else 1."""
    bad = {finding.check for finding in found if finding.bad}
    return EngineError.code if hosts.HOSTS in bad else int(bool(bad))
