"""Checks of this machine and of a store; each finding comes with its fix."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from cluster.backends.base import proven
from cluster.common.engines import cure, entries
from cluster.common.errors import ClusterError, StoreError
from cluster.doctor.finding import Finding
from cluster.hosts.nodes import usable_cores
from cluster.ledger import FILE, NETWORK, SQLITE, Damaged, Ledger, file_system, sweeps
from cluster.ledger.places import check_place
from cluster.sampling.kernels import cache_folder

# Bytes; with less free disk there is a warning.
_LEAST_FREE = 1 << 30


def findings(store: Path) -> Iterator[Finding]:
    """Run every check of this machine and of a store."""
    yield _python()
    yield from _packages()
    yield from _engines()
    yield _cores()
    yield _root()
    yield _cache()
    yield from _store(store)


def _python() -> Finding:
    versions = f"Python {platform.python_version()}, SQLite {SQLITE}"
    return Finding("python", "ok", f"{versions} ({sys.executable})")


def _packages() -> Iterator[Finding]:
    for name in ("numpy", "pydantic", "pyyaml", "click", "rich"):
        try:
            yield Finding(name, "ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            yield Finding(name, "bad", f"{name} is not installed", f"pip install {name}")
    if find_spec("numba"):
        yield Finding("numba", "ok", f"numba {version('numba')}")
    else:
        fix = "pip install 'cluster-montecarlo[fast]'"
        yield Finding(
            "numba",
            "warn",
            "numba is not installed: kernels that have a numpy twin use it, and are slower",
            fix,
        )


def _engines() -> Iterator[Finding]:
    """Warn of engines that other distributions register but that cannot be used."""
    for each in map(proven, entries()):
        if each.trouble or each.note:
            yield Finding("backends", "warn", each.trouble or each.note, cure(each))


def _cores() -> Finding:
    usable, all_cores = usable_cores(), os.cpu_count() or 1
    shown = f"{usable} usable of {all_cores} cores"
    if usable < all_cores:
        return Finding("cores", "ok", f"{shown} (affinity or cgroup); slots default to {usable}")
    return Finding("cores", "ok", shown)


def _root() -> Finding:
    if os.geteuid() == 0:
        fix = "run as an ordinary user"
        return Finding("user", "warn", "running as root: kernels could change any file", fix)
    return Finding("user", "ok", f"running as user {os.geteuid()}")


def _cache() -> Finding:
    fix = "set CLUSTER_CACHE to a folder that you can write"
    try:
        folder = cache_folder()
    except OSError:
        reason = "this user has no home folder: compiled kernels are not cached"
        return Finding("cache", "warn", reason, fix)
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if os.access(existing, os.W_OK):
        return Finding("cache", "ok", f"kernels are unpacked below {folder}")
    reason = f"{folder} is not writable: compiled kernels are not cached"
    return Finding("cache", "warn", reason, fix)


def _store(store: Path) -> Iterator[Finding]:
    # A store that does not exist yet would be created below its nearest existing parent.
    existing = next(place for place in (store, *store.resolve().parents) if place.exists())
    yield _writable(store, existing)
    yield _kind(existing)
    free = shutil.disk_usage(existing).free
    status = "ok" if free >= _LEAST_FREE else "warn"
    yield Finding("disk", status, f"{free / 1e9:.1f} GB free", "free some" if free < 1e9 else None)
    yield from _rights(existing)
    if (store / FILE).exists():
        yield _whole(store)


def _writable(store: Path, existing: Path) -> Finding:
    try:
        check_place(store, store / FILE)
    except StoreError as error:
        return Finding("store", "bad", error.message, error.fix)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("store", "ok", f"{store} is writable")
    return Finding("store", "bad", f"{existing} is not writable", "name another with --store")


def _kind(existing: Path) -> Finding:
    kind = file_system(existing)
    if kind in NETWORK:
        return Finding(
            "file system",
            "warn",
            f"{kind}: the store uses SQLite's rollback journal and one host at a time; locks work"
            " between processes of that host, and another host can take over 60 s after it died",
            "keep the store on a local disk if you can",
        )
    return Finding("file system", "ok", f"{kind or 'unknown'}: write-ahead log, local locks")


def _rights(existing: Path) -> Iterator[Finding]:
    for place in (existing.resolve(), *existing.resolve().parents):
        mode = place.stat().st_mode
        # Whoever can write to a folder can replace what is in it, unless it is sticky like /tmp.
        if mode & 0o022 and not mode & 0o1000:
            fix = f"chmod go-w {place}"
            yield Finding("rights", "warn", f"others may write to {place}", fix)


def _whole(store: Path) -> Finding:
    try:
        with Ledger(store) as ledger:
            verdict = ledger.check()
            rows = [*ledger.everything(), *sweeps.damaged(ledger)]
    except ClusterError as error:
        return Finding("ledger", "bad", error.message, error.fix)
    if verdict != "ok":
        fix = "restore it from a backup, or recover it with sqlite3's .recover"
        return Finding("ledger", "bad", verdict, fix)
    damaged = [row.error for row in rows if isinstance(row, Damaged)]
    if damaged:
        more = f" (and {len(damaged) - 1} more)" if damaged[1:] else ""
        return Finding("ledger", "bad", damaged[0].message + more, damaged[0].fix)
    return Finding("ledger", "ok", f"{store / FILE} is intact")
