"""What travels between dispatcher and workers: the work of a run, its tasks and their outcomes.

With the rooms before this one it is all that a worker needs. Everything is JSON: no user object
is pickled, and whatever arrives from a worker is validated before it is used.
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
# The run's id in the Work of a probe; the id of a real run never has a space.
PROBE_RUN = "a probe"
# Longer messages and tracebacks, in characters, are cut in the middle.
_LONGEST_TEXT = 8_000


@dataclass(frozen=True)
class Work:
    """What a worker must know to draw any block of a run.

    Attributes:
        run: the run's id; part of every checksum, so that the outcome of another run is rejected.
        source: the kernel's frozen text.
        params: the canonical parameters.
        seed, point: what the streams depend on besides the block's index.
        block: samples per block.
    """

    run: str
    source: KernelSource
    params: Mapping[str, Any]
    seed: int
    point: int
    block: int

    def to_json(self, sent: set[str] | None = None) -> dict[str, Any]:
        """A JSON-safe mapping; :meth:`from_json` restores an equal Work from it.

        Args:
            sent: the shas of the kernels that the reader already has; for these the mapping has
                the sha in place of the text, and a new one is added to the set. So the runs of a
                sweep send the text of their kernel once.
        """
        source: object = self.source.to_json()
        if sent is not None:
            source = self.source.sha if self.source.sha in sent else source
            sent.add(self.source.sha)
        return {**vars(self), "source": source, "params": dict(self.params)}

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], sources: dict[str, KernelSource] | None = None
    ) -> Work:
        """The Work that ``to_json`` wrote.

        Args:
            data: the mapping.
            sources: the kernels received so far, by sha; a new one is added.
        """
        known = {} if sources is None else sources
        given = data["source"]
        source = known[given] if isinstance(given, str) else KernelSource(**given)
        known[source.sha] = source
        return cls(**{**data, "source": source})


class Task(NamedTuple):
    """A contiguous range of blocks, [first, stop), for one worker.

    Attributes:
        id: unique among the tasks of an engine.
        first, stop: indices of blocks.
        attempt: of the block ``first``, from 1.
        created: the dispatcher's clock, in seconds since the epoch.
        run: id of its run; empty if the engine was started with a single Work.
    """

    id: int
    first: int
    stop: int
    attempt: int
    created: float
    run: str = ""


class Fault(NamedTuple):
    """Why a block, or the rest of a task, was not done.

    Attributes:
        kind: ``raised``: the kernel raised; ``refused``: an impossible tally; ``lost``: the
            worker died; ``timeout``: the worker was killed because the block took too long;
            ``returned``: never started; ``stranded``: the whole node was lost.
        block: the block that caused it, or None if that is not known.
        type: name of the exception's type, or of one of ours such as ``WorkerLost``.
        message: one line, or what the exception says.
        traceback: empty if there is none.
    """

    kind: str
    block: int | None
    type: str
    message: str
    traceback: str = ""

    @classmethod
    def from_json(cls, data: Any) -> Fault:
        """Validate a fault that came from a worker.

        Raises:
            ValueError, TypeError: it is malformed.
        """
        fault = cls(*data)
        texts = (fault.kind, fault.type, fault.message, fault.traceback)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("not a fault: a field of the wrong type")
        if fault.kind not in _KINDS or not isinstance(fault.block, int | None):
            raise ValueError(f"not a fault: {fault.kind!r} at block {fault.block!r}")
        return fault


class Outcome(NamedTuple):
    """The result of a task.

    Attributes:
        task: the task's id.
        first, stop: the blocks in ``tally``; an empty range if the first block failed.
        tally: the merged tally as JSON text, byte for byte as it will be stored; or None.
        fault: what ended the task early, or None.
        pid: of the process that computed it.
        started, ended: the worker's wall clock, in seconds since the epoch.
        wall, cpu: elapsed and CPU seconds, from clocks that are never adjusted.
        variant: which of several equivalent implementations of the kernel ran.
        checksum: over run, range and tally, see :func:`checksum`.
        node, slot: where it ran; filled in by the engine.
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
        """Validate an outcome that came from a worker.

        Raises:
            ValueError: it is malformed.
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
        """Whether a worker worked on the task; False if it was handed back untouched."""
        handed_back = self.fault is not None and self.fault.kind in ("returned", "stranded")
        return self.stop > self.first or not handed_back

    def with_possible_times(self) -> Outcome:
        """This outcome, with 0 for impossible times: NaN, negative, or an end before its start."""
        seconds = {name: getattr(self, name) for name in ("wall", "cpu")}
        wrong = {name: 0.0 for name, value in seconds.items() if not 0 <= value < _END_OF_TIME}
        if not 0 <= self.started <= self.ended < _END_OF_TIME:
            wrong |= {"started": 0.0, "ended": 0.0}
        return self._replace(**wrong) if wrong else self  # type: ignore[arg-type]

    @classmethod
    def without_answer(cls, task: Task, kind: str, message: str, block: int | None) -> Outcome:
        """The outcome of a task that no worker will answer.

        Args:
            task: the task.
            kind: a kind of :class:`Fault` other than ``refused``.
            message: what happened to the worker; may end with the last lines that it printed.
            block: the block that caused it, or None.
        """
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
    "raised": "MemoryError",  # the pool raises it for a kernel whose processes use too much memory
    "lost": "WorkerLost",
    "timeout": "BlockTimeout",
    "returned": "NotBegun",
    "stranded": "NodeLost",
}


def _dissected(message: str) -> tuple[str, str]:
    """Split a message about a dead worker into one line and a traceback.

    After a crash the last lines that a process printed are the traceback of Python's
    faulthandler, innermost call first: the line then names the kernel's function in it.
    """
    head, mark, output = message.partition("; its last words: ")
    lines = [line for line in output.splitlines() if not line.startswith("Extension modules: ")]
    if len(lines) < 2:
        return message, ""
    ours = next((at for at, line in enumerate(lines) if _CALLS_KERNEL.search(line)), len(lines))
    place = _OF_KERNEL.search("\n".join(lines[:ours]))
    where = f" in {place[3]} ({place[1]}:{place[2]})" if place else f"{mark}{lines[-1]}"
    return f"{head}{where}", "\n".join(lines[:ours]).strip()


# In a traceback of faulthandler: our frame that calls the kernel, and frames of its files.
_CALLS_KERNEL = re.compile(r'File ".*/cluster/kernels/model\.py", line \d+ in draw')
_OF_KERNEL = re.compile(r'File ".*/[0-9a-f]{64}/([^"]+)", line (\d+) in (\S+)')


def perform(
    work: Work,
    task: Task,
    cpu_clock: Callable[[], float] = time.process_time,
    begin: Callable[[int], None] = lambda _block: None,
) -> Outcome:
    """Draw the blocks of a task. The one function that an engine calls on a worker.

    An exception of the kernel becomes the outcome's fault; the blocks before it still count.
    Only ``StopNow`` is raised: it comes from the user, in engines that run in the dispatcher.

    Args:
        work: the run's kernel, parameters and streams.
        task: the blocks to draw.
        cpu_clock: CPU seconds of the process, or of the thread if several threads draw.
        begin: called with the index of each block before it is drawn.

    Raises:
        StopNow: a signal stopped the dispatcher.
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
    """The canonical JSON text of a tally: equal tallies have equal texts."""
    return json.dumps(tally.to_json(), separators=(",", ":"), sort_keys=True)


def checksum(run: str, first: int, stop: int, tally: str | None) -> str:
    """The checksum of an outcome, which detects damage and mix-ups between runs.

    Args:
        run: the run's id.
        first: index of the first block.
        stop: index after the last one.
        tally: their tally as JSON text, or None.

    Returns:
        The first 64 bits of a sha256, in hex.
    """
    return hashlib.sha256(f"{run}\n{first}\n{stop}\n{tally}".encode()).hexdigest()[:16]


def accept(work: Work, task: Task, outcome: Outcome) -> Tally | None:
    """The tally of an outcome, after every check that is possible without recomputing it.

    Args:
        work: of the task's run.
        task: the task as it was sent.
        outcome: what came back.

    Returns:
        The tally of blocks [outcome.first, outcome.stop), or None if that range is empty.

    Raises:
        TallyError: the outcome belongs to another task, was damaged, or is impossible.
    """
    if outcome.first != task.first or not task.first <= outcome.stop <= task.stop:
        raise TallyError(f"blocks {outcome.first} to {outcome.stop} are not those of the task")
    # A task ends early if and only if there is a fault.
    if (outcome.stop < task.stop) is not (outcome.fault is not None):
        raise TallyError("the blocks and the fault of the outcome do not fit together")
    return verified(work, outcome)


def verified(work: Work, outcome: Outcome) -> Tally | None:
    """The tally of an outcome of any task of the run; None if it holds no block.

    Raises:
        TallyError: the outcome was damaged, belongs to another run, or is impossible.
    """
    if (outcome.tally is None) is not (outcome.stop == outcome.first):
        raise TallyError("the blocks and the tally of the outcome do not fit together")
    if outcome.tally is None:
        return None
    if outcome.checksum != checksum(work.run, outcome.first, outcome.stop, outcome.tally):
        raise TallyError("the checksum is wrong: the outcome was changed in transit")
    return checked(outcome.tally, (outcome.stop - outcome.first) * work.block)


def checked(text: str, samples: int) -> Tally:
    """Parse the JSON text of a tally of ``samples`` samples.

    Raises:
        TallyError: it is not a tally, or has another number of samples.
    """
    try:
        tally = from_json(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise TallyError(f"not a tally: {error}") from None
    if tally.samples != samples:
        raise TallyError(f"a tally of {tally.samples} samples where {samples} were requested")
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
    # A kernel that forks returns in both processes; the child must not report an outcome too.
    if os.getpid() != pid:
        os._exit(1)


def _fault_of(error: BaseException, block: int) -> Fault:
    kind = "refused" if isinstance(error, TallyError) else "raised"
    return Fault(kind, block, type(error).__name__, _text(error), _trace(error))


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # the user's __str__ may raise anything
        text = "(the error's text could not be formatted)"
    return _cut(text)


def _trace(error: BaseException) -> str:
    # Skip our own frames at the top: the user needs those of the kernel.
    trace = error.__traceback__
    while trace and trace.tb_next and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    try:
        lines = traceback.format_exception(type(error), error, trace)
    except Exception:
        lines = [f"{type(error).__name__} (its traceback could not be formatted)"]
    return _cut("".join(lines))


def _is_ours(file: str) -> bool:
    return _PACKAGE in Path(file).parents


def _cut(text: str) -> str:
    # Lone surrogates cannot be encoded as UTF-8, which would fail when the outcome is sent.
    text = text.encode(errors="replace").decode()
    if len(text) <= _LONGEST_TEXT:
        return text
    half = _LONGEST_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters cut ...\n{text[-half:]}"
