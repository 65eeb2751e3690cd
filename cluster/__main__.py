"""``python -m cluster``: answers ``--help`` at once, and loads the verbs only when needed."""

from __future__ import annotations

import os
import sys

# The verbs that may run kernels in this process.
_DRAWING = ("submit", "resume", "extend", "schedule", "plan", "repro", "verify")


def main() -> int:
    """Run the command line; returns the exit code."""
    _drop_folder_from_path()
    _import_own_package()
    if sys.argv[1:] in ([], ["--help"], ["-h"], ["help"]):
        if _helped():
            return 0
        sys.argv[1:] = ["--help"]
    _fix_hash_seed()
    from cluster.common.errors import StopNow

    _reset_inherited()
    try:
        _handle_signals()
        from cluster.backends.mpi.world import told_rank, told_size

        if told_size(os.environ) > 1:
            return _run_rank(told_rank(os.environ))
        from cluster.cli import run

        return run(sys.argv[1:])
    except StopNow as stop:
        return _interrupted(*stop.args)


def _helped() -> bool:
    """Print the help; False if it cannot be written, which the verbs then report."""
    from cluster.common.commands import help_text

    if sys.stdout is None:
        return False
    try:
        sys.stdout.write(help_text() + "\n")
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _drop_folder_from_path() -> None:
    """Import nothing from the current folder, which ``python -m`` puts first on the path.

    A ``random.py`` there would shadow the standard library. This package is already found.
    """
    try:
        here = os.getcwd()
    except OSError:
        here = ""  # it was removed; the verbs report that
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", here):
        del sys.path[0]


def _import_own_package() -> None:
    """Make ``cluster`` the package that this file belongs to.

    Another folder of that name, in the working directory or on PYTHONPATH, may come first.
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


def _fix_hash_seed() -> None:
    """Re-execute this process with the hash seed that all workers have.

    The iteration order of a set of strings depends on it, and Python reads it only at its start.
    """
    arguments = sys.argv[1:]
    fixed = sys.flags.ignore_environment or os.environ.get("PYTHONHASHSEED") == "0"
    # Not if another program called main(): exec would restart that program.
    if arguments[0] in _DRAWING and not fixed and sys.orig_argv[-len(arguments) :] == arguments:
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _run_rank(rank: int) -> int:
    """Run the command as one of several ranks that mpirun or srun started."""
    from cluster.cli import refused, run

    if not {"submit", "resume", "extend"} & set(sys.argv[1:2]):
        return run(sys.argv[1:]) if rank == 0 else 0  # the others would print the same again
    from cluster.backends.mpi.inside import play
    from cluster.common.errors import EngineError

    try:
        return play(lambda: run(sys.argv[1:]))
    except EngineError as error:
        return refused(error, sys.argv[1:]) if rank == 0 else error.code


def _reset_inherited() -> None:
    """Reset process attributes, inherited from the parent, that no command can work with."""
    import signal

    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        # The kernel would reap our children itself, and their exit status would be lost.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # Drop the owner bits of the umask: they would lock us out of our own new files.
    os.umask(os.umask(0o077) & 0o077)


def _handle_signals() -> None:
    """Handle SIGINT and SIGTERM until the verbs are loaded and install their own handlers."""
    import signal

    from cluster.common.errors import StopNow
    from cluster.hosts.process_tree import catch

    def stop(number: int, _frame: object) -> None:
        raise StopNow(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            catch(number, stop)


def _interrupted(number: int) -> int:
    """Report a signal that arrived while the verbs were being loaded; returns the exit code."""
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
