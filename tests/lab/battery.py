"""The battery of fault schedules: runs over three hosts to which anything happens at any moment.

A schedule is a function of its seed: one to three faults, each of its kind, at its host and its
moment, most of them while tasks run. After it all hosts are well again, the run is resumed where
it did not end by itself, and judged: serial's digest, no block lost or doubled, no process and no
file left on any host.

    python -m tests.lab.battery BACKEND FIRST COUNT

runs so many schedules, from a seed on, over a lab of its own, and prints what each did.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cluster.hosts.process_tree import descendants
from cluster.sampling.task import checksum
from tests.lab.harness import Lab, own_lab, take_down_what_died
from tests.lab.site import BLOCK, DAEMONS, Site, Submitted, await_no_orphans, pids

BLOCKS, NAP = 400, 0.03
HOSTS = ("h1", "h2", "h3")
# A run that is without hosts waits so long for one before it ends `partial`, seconds.
WITHOUT = 8
# Two or three of them together in one schedule must not take what a block may lose.
RETRY = {"attempts": 6}
# The part of the faults that must strike while blocks are still to be counted.
MOST = 0.75
DONE, PARTIAL, NO_HOST = 0, 3, 69


class Broken(AssertionError):
    """What must not happen."""


@dataclass(frozen=True)
class Strike:
    """One fault that was done, and whether blocks were still to be counted at that moment."""

    kind: str
    host: str
    at: float
    amid: bool

    def __str__(self) -> str:
        where = f" {self.host}" if self.host else ""
        return f"{self.kind}{where} at {self.at:.1f} s{'' if self.amid else ' (too late)'}"


@dataclass
class Scene:
    """A run, its site, and what is to be undone, at which time of the monotonic clock."""

    site: Site
    run: Submitted
    daemon: str
    undo: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    @property
    def lab(self) -> Lab:
        return self.site.lab


def _signal(number: int, *words: str) -> Callable[[Scene, str, float], None]:
    """Send a signal to one process of the host whose command line has the words."""

    def strike(scene: Scene, host: str, seconds: float) -> None:
        words_there = [word.format(daemon=scene.daemon) for word in words]
        for pid in pids(scene.lab, host, *words_there)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                if number == signal.SIGSTOP:
                    scene.undo.append((time.monotonic() + seconds, partial(_continue, pid)))

    return strike


def _continue(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _cut(scene: Scene, host: str, seconds: float, *way: str) -> None:
    scene.lab.cut(host, *way)
    scene.undo.append((time.monotonic() + seconds, lambda: scene.lab.heal(host)))


def _freeze(scene: Scene, host: str, seconds: float) -> None:
    scene.lab.freeze(host)
    scene.undo.append((time.monotonic() + seconds, lambda: scene.lab.thaw(host)))


def _kill_host(scene: Scene, host: str, seconds: float) -> None:
    scene.lab.kill(host)
    scene.undo.append((time.monotonic() + seconds, lambda: scene.lab.heal(host)))


def _fill(scene: Scene, host: str, seconds: float) -> None:
    scene.lab.fill(host)
    scene.undo.append((time.monotonic() + seconds, lambda: scene.lab.free(host)))


def _kill_driver(scene: Scene, _host: str, _seconds: float) -> None:
    """Of the engine's processes beside the dispatcher, one that the run cannot do without."""
    for pid in descendants(scene.run.process.pid):
        with suppress(OSError):
            if "cluster.backends" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
                return


def _kill_dispatcher(scene: Scene, _host: str, _seconds: float) -> None:
    scene.run.process.kill()
    scene.run.end()
    scene.run = scene.site.start("submit", "spec.yaml", "--resume")


KINDS: dict[str, Callable[[Scene, str, float], None]] = {
    "kill a worker": _signal(signal.SIGKILL, "cluster.hosts.worker"),
    "stop a worker": _signal(signal.SIGSTOP, "cluster.hosts.worker"),
    "kill the agent": _signal(signal.SIGKILL, "cluster.hosts.agent"),
    "kill the engine": _signal(signal.SIGKILL, "{daemon}"),
    "stop the engine": _signal(signal.SIGSTOP, "{daemon}"),
    "kill the driver": _kill_driver,
    "kill the host": _kill_host,
    "cut": _cut,
    "cut from": lambda scene, host, seconds: _cut(scene, host, seconds, "from"),
    "cut to": lambda scene, host, seconds: _cut(scene, host, seconds, "to"),
    "freeze": _freeze,
    "fill": _fill,
    "kill the dispatcher": _kill_dispatcher,
}
# Those that strike on no host of the run.
HERE = ("kill the driver", "kill the dispatcher")


def schedule(seed: int, folder: Path, lab: Lab, backend: str) -> list[Strike]:
    """Let happen what the seed says, and judge how it ends.

    Args:
        seed: of every choice.
        folder: an empty one.
        lab: its hosts h1 to h3 are well, and are so again afterwards.
        backend: of the run.

    Raises:
        Broken: something counted was lost or doubled, the result is another, or something is left.
    """
    rng = random.Random(f"{backend} {seed}")
    site = Site(folder, lab, backend, blocks=BLOCKS, nap=NAP, retry=RETRY)
    site.spec["nodes"] = {"hosts": site.spec["nodes"], "wait": WITHOUT}
    site.write()
    scene = Scene(site, site.start(), DAEMONS[backend])
    strikes = _strike(rng, scene)
    code = _wait(scene)
    for _, undo in scene.undo:
        undo()
    lab.do("heal", "--all")
    if code != DONE:
        if code not in (PARTIAL, NO_HOST):
            raise Broken(f"ended with {code}:\n{scene.run.listen()}")
        scene.run = site.start("submit", "spec.yaml", "--resume")
        scene.run.result()
    _judge(site)
    _check_no_orphans(lab)
    return strikes


def _strike(rng: random.Random, scene: Scene) -> list[Strike]:
    scene.run.await_words(r"h\d: \d slots?")
    begun = time.monotonic()
    moments = sorted(rng.uniform(0.2, 3.0) for _ in range(rng.choice((1, 1, 2, 3))))
    driven = scene.site.spec["backend"] != "ssh"
    kinds = [kind for kind in KINDS if driven or kind != "kill the driver"]
    strikes = []
    for moment in moments:
        kind, host, seconds = rng.choice(kinds), rng.choice(HOSTS), rng.uniform(1, 10)
        while time.monotonic() < begun + moment:
            _undo_what_is_due(scene)
            time.sleep(0.01)
        at = time.monotonic() - begun
        amid = scene.run.process.poll() is None and _counted(scene.site) < BLOCKS
        strikes.append(Strike(kind, host if kind not in HERE else "", at, amid))
        KINDS[kind](scene, host, seconds)
    return strikes


def _wait(scene: Scene) -> int:
    """Until the run ends; its exit code."""
    end = time.monotonic() + 150
    while (code := scene.run.process.poll()) is None:
        if time.monotonic() > end:
            scene.run.process.kill()
            raise Broken(f"does not end:\n{scene.run.listen()}")
        scene.run.listen()
        _undo_what_is_due(scene)
        time.sleep(0.02)
    scene.run.end()
    return code


def _undo_what_is_due(scene: Scene) -> None:
    now = time.monotonic()
    due = [undo for at, undo in scene.undo if at <= now]
    scene.undo = [(at, undo) for at, undo in scene.undo if at > now]
    for undo in due:
        undo()


def _rows(site: Site) -> list[tuple[str, int, int, str, str]]:
    try:
        with closing(sqlite3.connect(site.folder / "runs" / "ledger.sqlite", timeout=30)) as db:
            return db.execute(
                "SELECT id, first, stop, outcome.tally, checksum FROM outcome JOIN run ON run = key"
                " ORDER BY first, stop"
            ).fetchall()
    except sqlite3.OperationalError:
        return []


def _counted(site: Site) -> int:
    return sum(stop - first for _, first, stop, _, _ in _rows(site))


def _judge(site: Site) -> None:
    rows, at = _rows(site), 0
    for run, first, stop, tally, mark in rows:
        if first != at:
            raise Broken(f"blocks {min(at, first)} to {max(at, first) - 1} are lost or doubled")
        if checksum(run, first, stop, tally) != mark:
            raise Broken(f"the row of blocks {first} to {stop - 1} is damaged")
        at = stop
    shown = site.start("show", rows[0][0]).result()
    found = (at, shown["state"], shown["samples"], shown["digest"])
    if found != (wanted := (BLOCKS, "done", BLOCKS * BLOCK, site.digest)):
        raise Broken(f"ended with {found}, not {wanted}")


def _check_no_orphans(lab: Lab) -> None:
    """No process; what killed agents could not remove, the next does."""
    for host in HOSTS:
        lab.exec(host, lab.python, "-c", "from cluster.hosts.scratch import sweep; sweep()")
    await_no_orphans(lab)


def main(backend: str, first: int, count: int) -> int:
    """Run the schedules; returns an exit code."""
    take_down_what_died()
    lab = own_lab("r")
    struck: list[Strike] = []
    try:
        lab.up(3)
        for seed in range(first, first + count):
            begun = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                strikes = schedule(seed, Path(folder), lab, backend)
            struck += strikes
            took = time.monotonic() - begun
            sys.stdout.write(f"{backend} {seed}: {'; '.join(map(str, strikes))} [{took:.0f} s]\n")
            sys.stdout.flush()
    except AssertionError as error:
        sys.stdout.write(f"{backend} {seed}: BROKEN: {error}\n")
        return 1
    finally:
        lab.down()
    amid = sum(strike.amid for strike in struck)
    sys.stdout.write(f"{backend}: {amid} of {len(struck)} faults struck while tasks ran\n")
    return 0 if amid >= MOST * len(struck) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
