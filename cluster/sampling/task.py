"""What travels: the work of a run, a task of it, and the outcome that comes back.

With the rooms before it this is all that a worker needs. Everything here is JSON: no user object
is pickled, and nothing that arrives from a worker is believed before it was checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cluster.common.errors import StopNow
from cluster.sampling.kernels import Kernel, KernelSource, load
from cluster.sampling.streams import Stream
from cluster.sampling.tally import Tally, TallyError, from_json

_PACKAGE = Path(__file__).parents[1]
# The name of the run that a probe is of; no run's own id has a space.
PROBE_RUN = "a probe"
# A traceback longer than this says no more; it is the middle that is cut.
_LONGEST_TEXT = 8_000


@dataclass(frozen=True)
class Work:
    """What a worker must know to draw any block of a run.

    Attributes:
        run: the run's id; part of every checksum, so that no other run's outcome can pass.
        source: the kernel's frozen text.
        params: the canonical parameters.
        seed, point: what the streams depend on, beside the block's index.
        block: samples in a block.
    """

    run: str
    source: KernelSource
    params: Mapping[str, Any]
    seed: int
    point: int
    block: int

    def to_json(self, told: set[str] | None = None) -> dict[str, Any]:
        """A JSON-safe mapping, from which :meth:`from_json` makes an equal Work.

        Args:
            told: the shas of the kernels whose text the reader has; of these only the sha is
                given, and a new one is added. So many runs of one kernel cost its text once.
        """
        source: object = self.source.to_json()
        if told is not None:
            source = self.source.sha if self.source.sha in told else source
            told.add(self.source.sha)
        return {**vars(self), "source": source, "params": dict(self.params)}

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], sources: dict[str, KernelSource] | None = None
    ) -> Work:
        """Read what ``to_json`` wrote; ``sources`` keeps the kernels whose text came, by sha."""
        known = {} if sources is None else sources
        given = data["source"]
        source = known[given] if isinstance(given, str) else KernelSource(**given)
        known[source.sha] = source
        return cls(**{**data, "source": source})


class Task(NamedTuple):
    """A contiguous range of blocks, [first, stop), handed to one worker.

    ``created`` is the dispatcher's clock, seconds since the epoch; ``attempt`` counts from 1;
    ``run`` names the work that it is of, and is empty where an engine was given only one.
    """

    id: int
    first: int
    stop: int
    attempt: int
    created: float
    run: str = ""


class Fault(NamedTuple):
    """Why a block, or what was left of a task, was not done.

    Attributes:
        kind: ``raised`` by the kernel; ``refused``, an impossible tally; ``lost``, its worker is
            gone; ``timeout``, its worker was killed for it; ``returned``, not begun; ``stranded``,
            the whole node that had it is gone.
        block: the block, where it is known to be the cause; else None.
        type, message, traceback: as text.
    """

    kind: str
    block: int | None
    type: str
    message: str
    traceback: str = ""

    @classmethod
    def from_json(cls, data: Any) -> Fault:
        """Read one that came from a worker.

        Raises:
            ValueError, TypeError: it has not the form of a fault.
        """
        fault = cls(*data)
        words = (fault.kind, fault.type, fault.message, fault.traceback)
        if not all(isinstance(word, str) for word in words):
            raise ValueError("not a fault: a word of the wrong type")
        if fault.kind not in _KINDS or not isinstance(fault.block, int | None):
            raise ValueError(f"not a fault: {fault.kind!r} at block {fault.block!r}")
        return fault


class Outcome(NamedTuple):
    """What became of a task.

    Attributes:
        task: the task's id.
        first, stop: the blocks that ``tally`` holds; empty where the first block failed.
        tally: the merged tally as JSON text, exactly as it was checked and will be kept; or None.
        fault: what ended the task early, or None.
        pid: of the process that computed it.
        started, ended: the worker's clock, seconds since the epoch.
        wall, cpu: seconds, from clocks that never step.
        variant: which of several equal implementations of the kernel ran.
        checksum: over run, range and tally.
        node, slot: where it ran; stamped by the engine, which alone knows.
    """

    task: int
    first: int
    stop: int
    tally: str | None
    fault: Fault | None
    pid: int
    started: float
    ended: float
    wall: float
    cpu: float
    variant: str
    checksum: str
    node: str = ""
    slot: int = 0

    @classmethod
    def from_json(cls, data: Any) -> Outcome:
        """Read one that came from a worker.

        Raises:
            ValueError: it has not the form of an outcome.
        """
        try:
            outcome = cls(*data)
            fault = Fault.from_json(outcome.fault) if outcome.fault is not None else None
        except TypeError as error:
            raise ValueError(f"not an outcome: {error}") from None
        kinds = zip(outcome, _FIELDS, strict=True)
        if not all(isinstance(value, kind) for value, kind in kinds):
            raise ValueError("not an outcome: a field of the wrong type")
        return outcome._replace(fault=fault)

    @property
    def is_work(self) -> bool:
        """Whether a worker came to it: not, where it was only given back."""
        given_back = self.fault is not None and self.fault.kind in ("returned", "stranded")
        return self.stop > self.first or not given_back

    def with_possible_times(self) -> Outcome:
        """Itself; or with 0 for what is no time: NaN, negative, an end before its start."""
        seconds = {name: getattr(self, name) for name in ("wall", "cpu")}
        wrong = {name: 0.0 for name, value in seconds.items() if not 0 <= value < _END_OF_TIME}
        if not 0 <= self.started <= self.ended < _END_OF_TIME:
            wrong |= {"started": 0.0, "ended": 0.0}
        return self._replace(**wrong) if wrong else self  # type: ignore[arg-type]

    @classmethod
    def without_answer(cls, task: Task, kind: str, message: str, block: int | None) -> Outcome:
        """The outcome of a task whose worker will not answer any more."""
        fault = Fault(kind, block, _NAMES[kind], *_dissected(message))
        return cls(task.id, task.first, task.first, None, fault, 0, 0.0, 0.0, 0.0, 0.0, "", "")


_NUMBER = (int, float)
_END_OF_TIME = 1e12
_FIELDS: tuple[Any, ...] = (
    int,
    int,
    int,
    (str, type(None)),
    (list, tuple, type(None)),
    int,
    _NUMBER,
    _NUMBER,
    _NUMBER,
    _NUMBER,
    str,
    str,
    str,
    int,
)
_KINDS = {"raised", "refused", "lost", "timeout", "returned", "stranded"}
_NAMES = {
    "raised": "MemoryError",  # in its place: the kernel's processes together had too much
    "lost": "WorkerLost",
    "timeout": "BlockTimeout",
    "returned": "NotBegun",
    "stranded": "NodeLost",
}


def _dissected(message: str) -> tuple[str, str]:
    """How a process ended, on one line with the kernel's own; and what it said last, as it stood.

    The last words of a crash are the trace of Python's fault handler, innermost call first.
    """
    head, mark, words = message.partition("; its last words: ")
    lines = [line for line in words.splitlines() if not line.startswith("Extension modules: ")]
    if len(lines) < 2:
        return message, ""
    ours = next((at for at, line in enumerate(lines) if _CALLS_KERNEL.search(line)), len(lines))
    place = _OF_KERNEL.search("\n".join(lines[:ours]))
    where = f" in {place[3]} ({place[1]}:{place[2]})" if place else f"{mark}{lines[-1]}"
    return f"{head}{where}", "\n".join(lines[:ours]).strip()


_CALLS_KERNEL = re.compile(r'File ".*/cluster/kernels/model\.py", line \d+ in draw')
_OF_KERNEL = re.compile(r'File ".*/[0-9a-f]{64}/([^"]+)", line (\d+) in (\S+)')


def perform(
    work: Work,
    task: Task,
    cpu_clock: Callable[[], float] = time.process_time,
    begin: Callable[[int], None] = lambda _block: None,
) -> Outcome:
    """Draw the blocks of a task. The one function that an engine calls on a worker.

    It never raises: what the kernel raises is carried as text, with the blocks before it, which
    count. (``StopNow`` passes: it comes from the person, in backends that run in the dispatcher.)

    Args:
        work: the run's kernel, parameters and streams.
        task: its blocks.
        cpu_clock: CPU seconds of what draws: the process, or the thread where it is one of several.
        begin: called with each block's index before it is drawn.
    """
    pid, started, wall, cpu = os.getpid(), time.time(), time.perf_counter(), cpu_clock()
    total: Tally | None = None
    fault: Fault | None = None
    variant, block = "", task.first
    try:
        kernel = load(work.source)
        variant = kernel.traits.variant
        for block in range(task.first, task.stop):
            begin(block)
            tally = _draw(kernel, work, block)
            _end_forked_child(pid)
            total = tally if total is None else total.merge(tally)
        block = task.stop
    except StopNow:
        raise
    except BaseException as error:
        _end_forked_child(pid)
        fault = _fault_of(error, block)
    text = None if total is None else tally_text(total)
    return Outcome(
        task.id,
        task.first,
        block,
        text,
        fault,
        pid,
        started,
        time.time(),
        time.perf_counter() - wall,
        cpu_clock() - cpu,
        variant,
        checksum(work.run, task.first, block, text),
    )


def tally_text(tally: Tally) -> str:
    """The one JSON text of a tally; equal tallies have equal texts."""
    return json.dumps(tally.to_json(), separators=(",", ":"), sort_keys=True)


def checksum(run: str, first: int, stop: int, tally: str | None) -> str:
    """The first 64 bits, in hex, of a sha256 over what will be counted, and for which run."""
    return hashlib.sha256(f"{run}\n{first}\n{stop}\n{tally}".encode()).hexdigest()[:16]


def accept(work: Work, task: Task, outcome: Outcome) -> Tally | None:
    """The tally of an outcome, after every check that can be made without computing it again.

    Returns:
        The tally of blocks [outcome.first, outcome.stop), or None where that range is empty.

    Raises:
        TallyError: the outcome is not one of this task, or cannot be right.
    """
    if outcome.first != task.first or not task.first <= outcome.stop <= task.stop:
        raise TallyError(f"blocks {outcome.first} to {outcome.stop} are not those of the task")
    if (outcome.stop < task.stop) is not (outcome.fault is not None):
        raise TallyError("the blocks and the fault of the outcome do not fit together")
    return verified(work, outcome)


def verified(work: Work, outcome: Outcome) -> Tally | None:
    """The tally of an outcome, whatever task it answers; None where it holds no block.

    Raises:
        TallyError: it was changed on its way, is of another run, or cannot be right.
    """
    if (outcome.tally is None) is not (outcome.stop == outcome.first):
        raise TallyError("the blocks and the tally of the outcome do not fit together")
    if outcome.tally is None:
        return None
    if outcome.checksum != checksum(work.run, outcome.first, outcome.stop, outcome.tally):
        raise TallyError("the checksum is wrong: the outcome was changed on its way")
    return checked(outcome.tally, (outcome.stop - outcome.first) * work.block)


def checked(text: str, samples: int) -> Tally:
    """The tally that a text holds, of so many samples.

    Raises:
        TallyError: not a tally, or not of so many samples.
    """
    try:
        tally = from_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise TallyError(f"not a tally: {error}") from None
    if tally.samples != samples:
        raise TallyError(f"a tally of {tally.samples} samples where {samples} were to be drawn")
    return tally


def _draw(kernel: Kernel, work: Work, block: int) -> Tally:
    tally = kernel.draw(Stream(work.seed, work.point, block), work.block, work.params)
    if not isinstance(tally, Tally):
        raise TallyError(
            f"the kernel returned {type(tally).__name__}, not Hits, Moments or Histogram"
        )
    if tally.samples != work.block:
        raise TallyError(
            f"the kernel returned a tally of {tally.samples} samples; it was asked for {work.block}"
        )
    return tally


def _end_forked_child(pid: int) -> None:
    # A kernel that forks returns twice. The copy must not answer in its parent's name.
    if os.getpid() != pid:
        os._exit(1)


def _fault_of(error: BaseException, block: int) -> Fault:
    kind = "refused" if isinstance(error, TallyError) else "raised"
    return Fault(kind, block, type(error).__name__, _text(error), _trace(error))


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # the user's __str__ may raise anything
        text = "(the error's own text could not be made)"
    return _cut(text)


def _trace(error: BaseException) -> str:
    # The first frames are ours; the person wants the kernel's.
    trace = error.__traceback__
    while trace and trace.tb_next and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    try:
        lines = traceback.format_exception(type(error), error, trace)
    except Exception:
        lines = [f"{type(error).__name__} (its traceback could not be made)"]
    return _cut("".join(lines))


def _is_ours(file: str) -> bool:
    return _PACKAGE in Path(file).parents


def _cut(text: str) -> str:
    # Surrogates cannot be written as UTF-8, and a message must not fail on its way.
    text = text.encode(errors="replace").decode()
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters cut ...\n{text[-half:]}"
