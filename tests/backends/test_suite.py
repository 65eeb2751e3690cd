"""The suite for engines finds what it is there to find, with pytest and without."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.backends.base import Backend, Item, Items, NodeEvent, Pause, Source
from cluster.backends.processes import Engine as Processes
from cluster.backends.serial import Engine as Serial
from cluster.sampling.task import Outcome, Work
from cluster.testing import CHECKS, HOSTILE, KILLS, engine_suite

ROOT = Path(__file__).parents[2]


class Changed(Serial):
    """Serial, whose items are changed on their way."""

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        for item in super().run(work, source):
            yield from self.changed(item)

    def changed(self, item: Item) -> Iterator[Item]:
        """What becomes of an item."""
        yield item


class Forgets(Changed):
    """It loses an outcome."""

    def changed(self, item: Item) -> Iterator[Item]:
        """All but one."""
        if not (isinstance(item, Outcome) and item.task == 7):
            yield item


class Twice(Changed):
    """It answers twice."""

    def changed(self, item: Item) -> Iterator[Item]:
        """One of them."""
        yield item
        if isinstance(item, Outcome) and item.task == 7:
            yield item


class Silent(Changed):
    """It does not say that a node joined."""

    def changed(self, item: Item) -> Iterator[Item]:
        """No event."""
        if not isinstance(item, NodeEvent):
            yield item


class Forges(Changed):
    """What it brings is not what was drawn."""

    def changed(self, item: Item) -> Iterator[Item]:
        """One more digit."""
        if isinstance(item, Outcome) and item.tally:
            item = item._replace(tally=item.tally.replace('"hits":', '"hits":1'))
        yield item


class Impatient(Serial):
    """It takes a pause for the end."""

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        take = source.take
        source.take = lambda node=None: (  # type: ignore[method-assign]
            Pause.END if isinstance(task := take(node), Pause) else task
        )
        yield from super().run(work, source)


class Leaves(Serial):
    """It leaves a process behind."""

    def __exit__(self, *exc_info: object) -> None:
        os.posix_spawnp("sleep", ["sleep", "7"], os.environ)


class Mortal(Processes):
    """With any of its workers it ends, and what they had is not answered."""

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        for item in super().run(work, source):
            if isinstance(item, Outcome) and item.fault is not None:
                return
            yield item


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        (Forgets, "every_task_is_answered_once"),
        (Twice, "every_task_is_answered_once"),
        (Silent, "a_joined_node_is_announced"),
        (Forges, "outcomes_do_not_depend_on_the_engine"),
        (Impatient, "it_asks_again_after_a_pause"),
        pytest.param(Leaves, "nothing_is_left_behind", marks=pytest.mark.slow),
        (Mortal, "worker_killed"),
    ],
)
def test_an_engine_that_breaks_the_contract_is_found(engine: type[Backend], name: str) -> None:
    """Each by the check that is there for it; an honest engine passes that."""
    broken, honest = (
        next(case for case in engine_suite(each) if case.name == name)
        for each in (engine, engine.__mro__[2 if issubclass(engine, Changed) else 1])
    )
    with pytest.raises(AssertionError):
        broken()
    assert honest()


def test_the_suite_has_every_check_hostile_kernel_and_kill() -> None:
    """Under names that pytest shows as they are."""
    cases = engine_suite(Serial)
    assert len(cases) == len(CHECKS) + len(HOSTILE) + len(KILLS)
    assert len({case.name for case in cases}) == len(cases)
    assert [case.__name__ for case in cases] == [case.name for case in cases]


def test_a_check_that_needs_processes_does_not_apply_in_one() -> None:
    """It is not run: it would end pytest itself."""
    skipped = {case.name for case in engine_suite(Serial) if case.outside}
    assert skipped == {
        *("survives_os_exit", "survives_segfault", "survives_hangs"),
        *(f"{role}_killed" for role in KILLS),
    }
    assert not any(case() for case in engine_suite(Serial) if case.outside)


def ended(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """``python -m cluster.testing`` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "cluster.testing", *words],
        cwd=folder,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


BROKEN = """
from cluster.backends.base import Entry
from cluster.backends.serial import Engine as Serial
ENTRY = Entry("mine", "an engine", kind="in_process")
class Engine(Serial):
    def run(self, work, source):
        print("what went on")
        yield from (item for item in super().run(work, source) if not hasattr(item, "slots"))
"""


def test_without_pytest_each_check_has_a_line(tmp_path: Path) -> None:
    """With its verdict and, where it failed, why; the exit code says whether all is well."""
    (tmp_path / "mine.py").write_text(BROKEN)
    done = ended("mine:Engine", "joined", "empty", "os_exit", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stderr
    assert lines.pop(2) == "     | what went on"
    assert [line.split()[:2] for line in lines[:-1]] == [
        ["ok", "an_empty_source_ends_it"],
        ["FAIL", "a_joined_node_is_announced"],
        ["-", "survives_os_exit"],
    ]
    assert "assert isinstance(first, NodeEvent)" in lines[1]
    assert lines[-1] == "1 ok, 1 failed, 1 do not apply"
    assert ended("serial", "joined", folder=tmp_path).returncode == 0


BARE = """
from cluster.backends.serial import Engine
"""
AWAY = """
from cluster.backends.base import Entry
from cluster.backends.tcp import Engine
ENTRY = Entry("mine", "an engine", kind="hosted")
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BARE, "mine has no ENTRY = Entry(...)"),
        (AWAY, "install its package first, here and on every host: pip install -e ."),
    ],
)
def test_an_engine_that_no_run_could_use_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    """One without an entry; a hosted one whose processes would not find its module."""
    (tmp_path / "mine.py").write_text(text)
    done = ended("mine:Engine", "joined", folder=tmp_path)
    assert (done.returncode, done.stdout) == (69, "")
    assert reason in done.stderr


DEAD = """
from cluster.backends.base import Entry
from cluster.backends.serial import Engine as Serial
from cluster.common.errors import EngineError
ENTRY = Entry("mine", "an engine", kind="in_process")
class Engine(Serial):
    def run(self, work, source):
        yield from ()
        raise EngineError("nothing answers")
"""


def test_the_suite_stops_at_an_engine_that_does_not_start(tmp_path: Path) -> None:
    """Each further check would wait for the start again: half a minute, of an engine of hosts."""
    (tmp_path / "mine.py").write_text(DEAD)
    done = ended("mine:Engine", "joined", "empty", folder=tmp_path)
    first, last = done.stdout.splitlines()
    assert done.returncode == 1
    assert "EngineError: nothing answers" in first
    assert last == "0 ok, 1 failed, 0 do not apply; 1 skipped, because the engine itself failed"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere:Engine", "nowhere:Engine cannot be imported: ModuleNotFoundError"),
        ("os:path", "os:path is not a class that inherits from"),
        ("seriall", "did you mean 'serial'?"),
    ],
)
def test_an_engine_that_is_not_there_is_told(target: str, said: str, tmp_path: Path) -> None:
    """By an error in words, and exit code 2."""
    done = ended(target, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_help_says_how_to_name_an_engine(tmp_path: Path) -> None:
    """Without words, too, which is an error."""
    done = ended("--help", folder=tmp_path)
    assert (done.returncode, "MODULE:CLASS" in done.stdout) == (0, True)
    assert ended(folder=tmp_path).returncode == 2
