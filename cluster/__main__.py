"""``python -m cluster``: answers ``--help`` at once, and loads the verbs for anything else."""

from __future__ import annotations

import os
import sys

# The verbs that draw in this process, or may.
_DRAWING = ("submit", "resume", "extend", "schedule", "plan", "repro", "verify")


def main() -> int:
    """Run the command line; returns the exit code."""
    _leave_folder_out()
    _take_own_package()
    if sys.argv[1:] in ([], ["--help"], ["-h"], ["help"]):
        if _helped():
            return 0
        sys.argv[1:] = ["--help"]
    _hash_as_workers_do()
    from cluster.common.errors import StopNow

    _undo_inherited()
    try:
        _handle_signals()
        from cluster.backends.mpi.world import told_rank, told_size

        if told_size(os.environ) > 1:
            return _in_a_world(told_rank(os.environ))
        from cluster.cli import run

        return run(sys.argv[1:])
    except StopNow as stop:
        return _interrupted(*stop.args)


def _helped() -> bool:
    """Print the help; False where it cannot be written, which the verbs know how to tell."""
    from cluster.common.commands import help_text

    if sys.stdout is None:
        return False
    try:
        sys.stdout.write(help_text() + "\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _leave_folder_out() -> None:
    """Import nothing from the current folder, which `python -m` puts first on the path.

    Somebody's random.py may lie there. The package itself was found already.
    """
    try:
        here = os.getcwd()
    except OSError:
        here = ""  # gone; the verbs tell of it
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", here):
        del sys.path[0]


def _take_own_package() -> None:
    """Have ``cluster`` be the package that this file is of.

    A folder of that name, in the current one or on PYTHONPATH, may have been found before it.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    found = getattr(sys.modules.get("cluster"), "__file__", None)
    if found and os.path.samefile(os.path.dirname(found), folder):
        return
    for name in [name for name in sys.modules if f"{name}.".startswith("cluster.")]:
        del sys.modules[name]
    sys.path.insert(0, os.path.dirname(folder))
    __import__("cluster")
    del sys.path[0]


def _hash_as_workers_do() -> None:
    """Begin this process anew with the hash seed of all workers.

    The order of a set of strings goes by it, and can be told once only: when Python starts.
    """
    arguments = sys.argv[1:]
    told = sys.flags.ignore_environment or os.environ.get("PYTHONHASHSEED") == "0"
    # Not where another program calls us: it would begin anew, too.
    if arguments[0] in _DRAWING and not told and sys.orig_argv[-len(arguments) :] == arguments:
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _in_a_world(rank: int) -> int:
    """What this process does as one of the ranks that mpirun or srun started."""
    from cluster.cli import refused, run

    if not {"submit", "resume", "extend"} & set(sys.argv[1:2]):
        return run(sys.argv[1:]) if rank == 0 else 0  # one answer is enough
    from cluster.backends.mpi.inside import play
    from cluster.common.errors import EngineError

    try:
        return play(lambda: run(sys.argv[1:]))
    except EngineError as error:
        return refused(error, sys.argv[1:]) if rank == 0 else error.code


def _undo_inherited() -> None:
    """Take back what a parent may have set, and no command can work with."""
    import signal

    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        # The system would reap our processes itself, and tell nobody how they ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A umask may keep others out, not us from what we make ourselves.
    os.umask(os.umask(0o077) & 0o077)


def _handle_signals() -> None:
    """Until the verbs are loaded, and have handlers of their own."""
    import signal

    from cluster.common.errors import StopNow
    from cluster.hosts.process_tree import catch

    def stop(number: int, _frame: object) -> None:
        raise StopNow(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            catch(number, stop)


def _interrupted(number: int) -> int:
    """Tell of a signal that came while the verbs were being loaded."""
    from cluster.common.errors import Interrupted

    error = Interrupted(number)
    if "--json" in sys.argv:
        import json

        sys.stdout.write(json.dumps(error.to_json()) + "\n")
    else:
        sys.stderr.write(f"error: {error}\n")
    return error.code


if __name__ == "__main__":
    sys.exit(main())
