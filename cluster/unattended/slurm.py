"""A batch script for Slurm that goes on until the target holds, and lines for scrontab. Pure text.

One job, however long it waits in the queue, works up to its time limit, drains, and requeues
itself. Few long workers pull tasks; an array, if one is wanted, has a part of a sweep to each of
its tasks, not a block.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.unattended.crontab import CrontabError, are_five, check_fields

# What Slurm itself has for MaxArraySize where nobody set it; indices are below it.
MAX_ARRAY = 1001
MPI = ("pmix", "pmi2")

_OPTION = re.compile(r"([a-z][a-z-]*)(?:=(.+))?", re.DOTALL)
_OURS = {"array", "chdir", "open-mode", "output", "requeue", "signal"}
_WARNING = re.compile(r"signal=B:USR1@([0-9]{1,9})")
# minutes, minutes:seconds, hours:minutes:seconds; days-hours and then as many again.
_TIME = re.compile(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class SlurmError(ValueError):
    """What cannot stand in a script, and how to mend it.

    Attributes:
        fix: what to write instead, or None.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


@dataclass(frozen=True)
class BatchScript:
    """A job that submits one spec.

    Attributes:
        name: of the logs, and of the job where the options have no ``job-name``.
        spec, folder, store: absolute; the folder is where it works, and where its log is.
        python: the interpreter that has the project, on every host.
        overrides: texts of ``--set``.
        options: of sbatch, as ``time=2:00:00`` or ``exclusive``.
        warning: seconds before the time limit at which the run begins to drain.
        restarts: how often the job may start again.
        parts: tasks of an array, each with its part of a sweep; None: no array.
        most: the site's MaxArraySize.
        mpi: srun starts a world by it, ``pmix`` or ``pmi2``; None: the spec's backend is used.
        yes: more than 100,000 points of a sweep are meant.
    """

    name: str
    spec: Path
    folder: Path
    store: Path
    python: str
    overrides: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    warning: int = 180
    restarts: int = 100
    parts: int | None = None
    most: int = MAX_ARRAY
    mpi: str | None = None
    yes: bool = False

    @property
    def job_name(self) -> str:
        """What Slurm calls the job; two of one name can be kept from running at once.

        Raises:
            SlurmError: an option that leaves the name out.
        """
        given = [text for text in self.options if _is_job_name(text)]
        if not given:
            return self.name
        found = _OPTION.fullmatch(given[-1])
        if not found or found[2] is None or not found[2].isprintable():
            words = f"a job's name is written as job-name=project:night, got {given[-1]!r}"
            raise SlurmError(words)
        return found[2]


def _is_job_name(option: str) -> bool:
    return option.partition("=")[0] == "job-name"


_SCRIPT = """\
#!/usr/bin/env bash
# Written by `cluster schedule {spec} --slurm`. To start it: sbatch {file}
#
# The job draws until its time limit is near; then it drains, and requeues itself, until the target
# holds. What was drawn is in the ledger, whatever squeue and sacct say of the job:
#     {look}
# To stop it for good: scancel. To go on later: sbatch it again; nothing is drawn twice.
#
{options}
set -u

most={restarts}  # times that this job may start again
command=({command})
{part}
caught= limit= code=127
"${{command[@]}}" &
run=$!
# {warning} s before the limit Slurm sends USR1 to this script: what was begun is finished, no more.
trap 'caught=yes limit=yes; kill -USR1 "$run" 2>/dev/null' USR1
# By scancel, and at the limit itself, it sends TERM to this script and to all that it has started.
trap 'caught=yes' TERM

# A signal ends `wait` before the run has ended: then wait again.
while true; do
    caught=
    wait "$run"
    status=$?
    [[ $status == 127 && $code != 127 ]] && break
    code=$status
    [[ -n $caught ]] || break
done

# 0: the target holds. 3: partial. Above 128: ended by a signal, which is as good as partial if it
# was that of the limit. 75: on a start after the first, the one before has not quite ended yet.
again=
((code == 3 || code > 128)) && [[ -n $limit ]] && again=yes
# A start that is partial at once (outside of its window, or at max_samples) would be so again.
((code == 3 && SECONDS >= 30)) && again=yes
((code == 75 && ${{SLURM_RESTART_COUNT:-0}} > 0)) && again=yes
[[ -n $again ]] || exit "$code"

if ((${{SLURM_RESTART_COUNT:-0}} >= most)); then
    echo "not done after $most restarts (exit code $code); to go on: sbatch this script again" >&2
    exit 3
fi
# Of an array only this task; its last one has the number of the whole array.
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
echo "not done yet (exit code $code): requeued after start $((${{SLURM_RESTART_COUNT:-0}} + 1))" >&2
scontrol requeue "${{job:-$SLURM_JOB_ID}}" || exit "$code"
"""

_PART = """\
# This task's points of the sweep, in a ledger of its own: hosts must not share one over a network.
part=$SLURM_ARRAY_TASK_ID
command+=(--points "$part/{parts}" --store {store}/part-"$part")
"""


def script(batch: BatchScript, file: str = "") -> str:
    """The text of the script; ``file``: its own path, for what it tells the reader.

    Raises:
        SlurmError: an option, a name or a number that cannot be meant.
    """
    _check(batch)
    quoted = {name: shlex.quote(str(getattr(batch, name))) for name in ("spec", "store", "python")}
    store = [] if batch.parts else ["--store", str(batch.store)]
    words = [*_launcher(batch), batch.python, "-P", "-m", "cluster", "submit", str(batch.spec)]
    words += ["--resume", "--quiet", *store, *(["--yes"] if batch.yes else [])]
    words += [word for text in batch.overrides for word in ("--set", text)]
    looked = f"{quoted['store']}/part-1" if batch.parts else quoted["store"]
    return _SCRIPT.format(
        spec=quoted["spec"],
        file=shlex.quote(file) if file else "this file",
        look=f"{quoted['python']} -P -m cluster ls --store {looked}",
        options="\n".join(f"#SBATCH {option}" for option in _options(batch)),
        restarts=batch.restarts,
        command=shlex.join(words),
        part=_PART.format(parts=batch.parts, store=quoted["store"]) if batch.parts else "",
        warning=batch.warning,
    )


def scrontab(batch: BatchScript, when: str, file: Path) -> str:
    """Lines for ``scrontab -e`` that hand in the script at a time, one start after the other.

    Args:
        batch: whose script it is.
        when: five fields, as in a crontab, or ``@daily``.
        file: the script.

    Raises:
        SlurmError: the time is none.
    """
    fields = when.split()
    known = are_five(fields)
    if not known and not re.fullmatch(r"@[a-z]+", when):
        raise SlurmError(f"must be five fields such as '0 22 * * 1-5', got {when!r}")
    if known:
        try:
            check_fields(fields)
        except CrontabError as error:
            raise SlurmError(f"--at: {error}") from None
    # The entry is a job itself, a short one; singleton has the script wait for an earlier start.
    name = shlex.quote(f"{batch.job_name}-start")
    lines = [f"#SCRON --job-name={name}", "#SCRON --time=5"]
    command = shlex.join(["sbatch", "--dependency=singleton", str(file)])
    return "".join(f"{line}\n" for line in [*lines, f"{' '.join(fields)} {command}"])


def _launcher(batch: BatchScript) -> list[str]:
    # Without the last one a dead rank leaves the others, and the job, to wait until the limit.
    return ["srun", f"--mpi={batch.mpi}", "--kill-on-bad-exit=1"] if batch.mpi else []


def _options(batch: BatchScript) -> list[str]:
    """What stands behind ``#SBATCH``, ours and the person's."""
    # The log of an array's task is named by the array and the task.
    log = f"{batch.name}-{'%A-%a' if batch.parts else '%j'}.log"
    options = [
        f"--job-name={shlex.quote(batch.job_name)}",
        f"--chdir={shlex.quote(str(batch.folder))}",
        f"--output={log}",
        "--open-mode=append",
        "--requeue",
        f"--signal=B:USR1@{batch.warning}",
    ]
    options += [f"--array=1-{batch.parts}"] if batch.parts else []
    return options + [_option(text) for text in batch.options if not _is_job_name(text)]


def _option(text: str) -> str:
    found = _OPTION.fullmatch(text)
    if not found or not text.isprintable():
        raise SlurmError(
            f"an option of sbatch is written as time=2:00:00 or exclusive, got {text!r}"
        )
    if found[1] in _OURS:
        cure = (
            "another warning is signal=B:USR1@SECONDS" if found[1] == "signal" else "leave it out"
        )
        raise SlurmError(f"the script itself needs sbatch's option {found[1]}", cure)
    return f"--{found[1]}" if found[2] is None else f"--{found[1]}={shlex.quote(found[2])}"


def _check(batch: BatchScript) -> None:
    if not _NAME.fullmatch(batch.name):
        raise SlurmError(f"no name for a job: {batch.name!r}")
    for path in (batch.spec, batch.folder, batch.store):
        if not path.is_absolute() or not str(path).isprintable():
            raise SlurmError(f"must be an absolute path that can be printed, got {str(path)!r}")
    if any(not word.isprintable() for word in (batch.python, *batch.overrides)):
        raise SlurmError("a word of the command holds a letter that cannot be printed")
    # Slurm keeps the warning in 16 bits.
    _check_range("the warning", batch.warning, 1, 65_535)
    for text in batch.options:
        _check_limit(text, batch.warning)
    _check_range("the number of restarts", batch.restarts, 0, 10_000)
    if batch.parts is not None:
        # An index must be below MaxArraySize, and ours begin with 1.
        _check_range("the number of parts", batch.parts, 1, batch.most - 1)
    if batch.mpi is not None and batch.mpi not in MPI:
        raise SlurmError(f"srun's --mpi must be {' or '.join(MPI)}, got {batch.mpi!r}")


def _check_limit(option: str, warning: int) -> None:
    """See that a job draws at all: one that is warned at its start drains at once, again and again.

    Raises:
        SlurmError: the option is a time limit that is not above the warning.
    """
    name, _, value = option.partition("=")
    limit = seconds_of(value) if name == "time" else None
    if limit and limit <= warning:  # 0 is no limit
        words = f"the time limit must be above the warning of {warning:,} s, got {value}"
        raise SlurmError(
            words, f"give a longer one, or --sbatch signal=B:USR1@{max(1, limit // 3)}"
        )


def warning_of(options: Sequence[str]) -> tuple[int | None, tuple[str, ...]]:
    """The seconds of warning that the last ``signal=B:USR1@N`` asks for, and the other options."""
    asked = [int(found[1]) for text in options if (found := _WARNING.fullmatch(text))]
    others = tuple(text for text in options if not _WARNING.fullmatch(text))
    return (asked[-1] if asked else None), others


def seconds_of(limit: str) -> int | None:
    """A time limit as sbatch reads it, in seconds; None: it is no number of them."""
    found = _TIME.fullmatch(limit)
    if not found:
        return None
    days, *rest = found.groups()
    given = [int(part) for part in rest if part is not None]
    if days is not None:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = (*given, 0, 0)[:3]
    elif len(given) == 3:
        hours, minutes, seconds = given
    else:  # minutes[:seconds]
        hours, (minutes, seconds) = 0, (*given, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SlurmError(f"{what} must be from {low} to {high:,}, got {value:,}")


def array_limit(config: str) -> int:
    """MaxArraySize, from what ``scontrol show config`` prints; Slurm's own where it says none."""
    found = re.search(r"^MaxArraySize\s*=\s*([0-9]+)\s*$", config, re.MULTILINE)
    return int(found[1]) if found else MAX_ARRAY
