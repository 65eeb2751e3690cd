"""The text of a Slurm batch script that requeues itself until the target is met, and of scrontab.

A job computes until its time limit is near, drains, and requeues itself. Its workers live as long
as the job and pull tasks: Slurm schedules no blocks. With an array, each array task computes a part
of a sweep.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.unattended.crontab import CrontabError, are_five, check_fields

# Slurm's default for MaxArraySize; array indices are below it.
MAX_ARRAY = 1001
MPI = ("pmix", "pmi2")

_OPTION = re.compile(r"([a-z][a-z-]*)(?:=(.+))?", re.DOTALL)
_OURS = {"array", "chdir", "open-mode", "output", "requeue", "signal"}
_WARNING = re.compile(r"signal=B:USR1@([0-9]{1,9})")
# minutes[:seconds], hours:minutes:seconds, or days-hours[:minutes[:seconds]]
_TIME = re.compile(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class SlurmError(ValueError):
    """A value that cannot be written into a batch script.

    Attributes:
        message: what is wrong.
        fix: what to write instead, or None.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


@dataclass(frozen=True)
class BatchScript:
    """A job that submits one spec.

    Attributes:
        name: prefix of the logs' names, and the job's name unless the options have a ``job-name``.
        spec: absolute path of the spec.
        folder: absolute path of the working directory, which also gets the logs.
        store: absolute path of the store.
        python: path of an interpreter that has this project, the same on every host.
        overrides: values of ``--set``.
        options: options of sbatch, such as ``time=2:00:00`` or ``exclusive``.
        warning: seconds before the time limit at which the run begins to drain.
        restarts: how many times the job may requeue itself.
        parts: number of array tasks, each of which computes a part of a sweep; None: no array.
        most: the site's MaxArraySize.
        mpi: ``pmix`` or ``pmi2``, by which srun starts an MPI world; None: the job starts the
            command itself, which uses the spec's backend.
        yes: confirm a sweep of more than 100,000 points.
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
        """The job's name, by which ``--dependency=singleton`` keeps two from running at once.

        Raises:
            SlurmError: the option ``job-name`` has no usable value.
        """
        given = [text for text in self.options if _is_job_name(text)]
        if not given:
            return self.name
        found = _OPTION.fullmatch(given[-1])
        if not found or found[2] is None or not found[2].isprintable():
            raise SlurmError(f"a job's name is written as job-name=NAME, got {given[-1]!r}")
        return found[2]


def _is_job_name(option: str) -> bool:
    return option.partition("=")[0] == "job-name"


_SCRIPT = """\
#!/usr/bin/env bash
# Written by `cluster schedule {spec} --slurm`. To start it: sbatch {file}
#
# The job computes until its time limit is near, drains, and requeues itself, until the target is
# met. Its results are in the ledger, whatever squeue and sacct say about the job:
#     {look}
# To stop it for good: scancel. To continue later: sbatch it again; nothing is computed twice.
#
{options}
set -u

most={restarts}  # how many times this job may requeue itself
command=({command})
{part}
caught= limit= code=127
"${{command[@]}}" &
run=$!
# Slurm sends USR1 to this script {warning} s before the limit: the run then drains.
trap 'caught=yes limit=yes; kill -USR1 "$run" 2>/dev/null' USR1
# At scancel, and at the limit itself, it sends TERM to this script and to all its processes.
trap 'caught=yes' TERM

# A trapped signal interrupts `wait`, so repeat it until the run has ended.
while true; do
    caught=
    wait "$run"
    status=$?
    [[ $status == 127 && $code != 127 ]] && break
    code=$status
    [[ -n $caught ]] || break
done

# 0: the target is met. 3: partial. Above 128: killed by a signal, which counts as partial at the
# limit. 75: the run is locked; on a restart, because the previous start is still ending.
again=
((code == 3 || code > 128)) && [[ -n $limit ]] && again=yes
# A start that is partial within 30 s (outside its window, or at max_samples) would be so again.
((code == 3 && SECONDS >= 30)) && again=yes
((code == 75 && ${{SLURM_RESTART_COUNT:-0}} > 0)) && again=yes
[[ -n $again ]] || exit "$code"

if ((${{SLURM_RESTART_COUNT:-0}} >= most)); then
    echo "not done after $most restarts (exit code $code); to continue: sbatch it again" >&2
    exit 3
fi
# Requeue this array task only: in an array's last task, SLURM_JOB_ID is that of the whole array.
job=${{SLURM_ARRAY_JOB_ID:+${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID}}
echo "not done yet (exit code $code): requeued after start $((${{SLURM_RESTART_COUNT:-0}} + 1))" >&2
scontrol requeue "${{job:-$SLURM_JOB_ID}}" || exit "$code"
"""

_PART = """\
# This task's points go into a ledger of their own: hosts must not share one over a network.
part=$SLURM_ARRAY_TASK_ID
command+=(--points "$part/{parts}" --store {store}/part-"$part")
"""


def script(batch: BatchScript, file: str = "") -> str:
    """The text of a batch script.

    Args:
        batch: the job.
        file: the script's own path, for the comment that says how to submit it.

    Raises:
        SlurmError: an option, a name or a number is invalid.
    """
    _check(batch)
    quoted = {name: shlex.quote(str(getattr(batch, name))) for name in ("spec", "store", "python")}
    store = [] if batch.parts else ["--store", str(batch.store)]
    command = [*_launcher(batch), batch.python, "-P", "-m", "cluster", "submit", str(batch.spec)]
    command += ["--resume", "--quiet", *store, *(["--yes"] if batch.yes else [])]
    command += [word for text in batch.overrides for word in ("--set", text)]
    looked = f"{quoted['store']}/part-1" if batch.parts else quoted["store"]
    return _SCRIPT.format(
        spec=quoted["spec"],
        file=shlex.quote(file) if file else "this file",
        look=f"{quoted['python']} -P -m cluster ls --store {looked}",
        options="\n".join(f"#SBATCH {option}" for option in _options(batch)),
        restarts=batch.restarts,
        command=shlex.join(command),
        part=_PART.format(parts=batch.parts, store=quoted["store"]) if batch.parts else "",
        warning=batch.warning,
    )


def scrontab(batch: BatchScript, when: str, file: Path) -> str:
    """Lines for ``scrontab -e`` that submit the script at a time; starts never overlap.

    Args:
        batch: the job of the script.
        when: five fields, as in a crontab, or a nickname such as ``@daily``.
        file: absolute path of the script.

    Raises:
        SlurmError: the time is invalid.
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
    # The scrontab entry is a short job of its own. The singleton dependency makes the script's job
    # wait for an earlier start of it.
    name = shlex.quote(f"{batch.job_name}-start")
    lines = [f"#SCRON --job-name={name}", "#SCRON --time=5"]
    command = shlex.join(["sbatch", "--dependency=singleton", str(file)])
    return "".join(f"{line}\n" for line in [*lines, f"{' '.join(fields)} {command}"])


def _launcher(batch: BatchScript) -> list[str]:
    # Without --kill-on-bad-exit, the other ranks would wait for a dead one until the time limit.
    return ["srun", f"--mpi={batch.mpi}", "--kill-on-bad-exit=1"] if batch.mpi else []


def _options(batch: BatchScript) -> list[str]:
    """The options of the ``#SBATCH`` lines: the script's own, then the user's."""
    # An array task's log is named by the array's job ID (%A) and the task's index (%a).
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
        raise SlurmError(f"not a valid name for a job: {batch.name!r}")
    for path in (batch.spec, batch.folder, batch.store):
        if not path.is_absolute() or not str(path).isprintable():
            raise SlurmError(f"must be an absolute path of printable characters, got {str(path)!r}")
    if any(not word.isprintable() for word in (batch.python, *batch.overrides)):
        raise SlurmError("the command contains a character that cannot be printed")
    # Slurm stores the warning in 16 bits.
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
    """Check that a time limit leaves time to compute.

    A job that gets its warning right at the start would drain and requeue itself for ever.

    Raises:
        SlurmError: the option is a time limit that is not above the warning.
    """
    name, _, value = option.partition("=")
    limit = seconds_of(value) if name == "time" else None
    if limit and limit <= warning:  # 0 is no limit
        message = f"the time limit must be above the warning of {warning:,} s, got {value}"
        raise SlurmError(
            message, f"give a longer one, or --sbatch signal=B:USR1@{max(1, limit // 3)}"
        )


def warning_of(options: Sequence[str]) -> tuple[int | None, tuple[str, ...]]:
    """Split the options of sbatch into the warning and the rest.

    Returns:
        The seconds N of the last ``signal=B:USR1@N``, None without one; and the other options.
    """
    warnings = [int(found[1]) for text in options if (found := _WARNING.fullmatch(text))]
    others = tuple(text for text in options if not _WARNING.fullmatch(text))
    return (warnings[-1] if warnings else None), others


def seconds_of(limit: str) -> int | None:
    """A time limit in seconds, parsed as sbatch does; None for words such as ``UNLIMITED``."""
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
    """MaxArraySize in the output of ``scontrol show config``; Slurm's default if it has none."""
    found = re.search(r"^MaxArraySize\s*=\s*([0-9]+)\s*$", config, re.MULTILINE)
    return int(found[1]) if found else MAX_ARRAY
