"""The batch script as text: what it says, and what it refuses."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.unattended.slurm import (
    BatchScript,
    SlurmError,
    array_limit,
    script,
    scrontab,
    seconds_of,
)

ROOT = Path(__file__).parents[2]
BATCH = BatchScript(
    name="cluster-nightly",
    spec=Path("/home/me/my work/nightly.yaml"),
    folder=Path("/home/me/my work"),
    store=Path("/home/me/my work/runs"),
    python="/home/me/venv/bin/python",
)


def lines(**changes: Any) -> list[str]:
    """The lines of a script."""
    return script(replace(BATCH, **changes)).splitlines()


def test_bash_takes_the_script() -> None:
    """With an array and without; words with spaces stay one word."""
    for parts in (None, 4):
        text = script(replace(BATCH, parts=parts, overrides=("params.d=3", "name='a b'")))
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        assert "'/home/me/my work/nightly.yaml'" in text


def test_every_option_stands_where_sbatch_reads_it() -> None:
    """Behind #SBATCH, before the first command; ours and the person's."""
    text = lines(options=("time=2:00:00", "exclusive", "comment=a b"), warning=300)
    options = [line.removeprefix("#SBATCH ") for line in text if line.startswith("#SBATCH")]
    assert options == [
        "--job-name=cluster-nightly",
        "--chdir='/home/me/my work'",
        "--output=cluster-nightly-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:USR1@300",
        "--time=2:00:00",
        "--exclusive",
        "--comment='a b'",
    ]
    first = next(at for at, line in enumerate(text) if line and not line.startswith("#"))
    assert all(not line.startswith("#SBATCH") for line in text[first:])


@pytest.mark.parametrize("name", ["proj-sub:test", "a b", "it's", "-x", "a=b", "%x"])
@pytest.mark.parametrize("parts", [None, 4])
def test_a_job_has_the_name_that_its_site_asks_for(name: str, parts: int | None) -> None:
    """In the script once, in the lines for scrontab too; the logs have ours, as they are told."""
    batch = replace(BATCH, options=("job-name=x", "time=9", f"job-name={name}"), parts=parts)
    text = script(batch)
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    names = re.findall(r"^#SBATCH (--job-name=.*)$", text, re.M)
    assert [shlex.split(each) for each in names] == [[f"--job-name={name}"]]
    assert re.search(r"^#SBATCH --output=cluster-nightly-%", text, re.M)
    entry = scrontab(batch, "@daily", Path("/n")).splitlines()
    assert shlex.split(entry[0])[1:] == [f"--job-name={name}-start"]
    assert entry[-1] == "@daily sbatch --dependency=singleton /n"


def test_an_array_has_a_part_of_the_sweep_to_each_task_and_a_ledger() -> None:
    """The number of parts is the script's own: Slurm counts only the tasks that are sent."""
    text = "\n".join(lines(parts=4))
    assert "#SBATCH --array=1-4\n" in text
    assert """--points "$part/4" --store '/home/me/my work/runs'/part-"$part")""" in text


def test_the_site_says_how_large_an_array_may_be() -> None:
    """An index must be below MaxArraySize."""
    lines(parts=9, most=10)
    with pytest.raises(SlurmError, match="parts must be from 1 to 9, got 10"):
        lines(parts=10, most=10)
    assert array_limit("MaxArraySize            = 4001\nMaxJobCount = 10000\n") == 4001
    assert array_limit("") == 1001


def test_a_world_is_started_by_srun() -> None:
    """A dead rank ends it: else the others would wait until the limit."""
    text = "\n".join(lines(mpi="pmix"))
    assert "command=(srun --mpi=pmix --kill-on-bad-exit=1 /home/me/venv/bin/python -P -m" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "-x"}, "not a valid name for a job"),
        ({"spec": Path("nightly.yaml")}, "must be an absolute path"),
        ({"store": Path("/a\nb")}, "must be an absolute path of printable characters"),
        ({"overrides": ("name=a\nb",)}, "cannot be printed"),
        ({"options": ("--time=1",)}, "written as time=2:00:00"),
        ({"options": ("time=1\n#SBATCH --array=1-9",)}, "written as time=2:00:00"),
        ({"options": ("signal=TERM@9",)}, "needs sbatch's option signal"),
        ({"options": ("job-name",)}, "written as job-name=NAME, got 'job-name'"),
        ({"options": ("job-name=",)}, "written as job-name=NAME, got 'job-name='"),
        ({"options": ("job-name=a\nb",)}, "written as job-name=NAME"),
        ({"options": ("time=3",)}, "must be above the warning of 180 s, got 3"),
        ({"options": ("time=0:30",), "warning": 30}, "must be above the warning of 30 s, got 0:30"),
        ({"warning": 0}, "the warning must be from 1 to 65,535, got 0"),
        ({"restarts": -1}, "restarts must be from 0"),
        ({"parts": 0}, "parts must be from 1 to 1,000, got 0"),
        ({"mpi": "none"}, "must be pmix or pmi2"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, Any], words: str) -> None:
    """With what is wrong."""
    with pytest.raises(SlurmError, match=words):
        lines(**changes)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("2", 120),
        ("2:30", 150),
        ("1:0:5", 3605),
        ("1-2", 93_600),
        ("1-2:03", 93_780),
        ("1-0:0:9", 86_409),
        ("0", 0),
        ("UNLIMITED", None),
        ("1:2:3:4", None),
        ("", None),
    ],
)
def test_a_time_limit_is_read_as_sbatch_does(limit: str, seconds: int | None) -> None:
    """Also without one a script is written: what Slurm does not know, it refuses itself."""
    assert seconds_of(limit) == seconds
    if limit:
        assert f"#SBATCH --time={limit}" in lines(options=(f"time={limit}",), warning=60)


def test_scrontab_hands_the_script_in_and_one_start_waits_for_the_other() -> None:
    """Its own entry is a short job."""
    text = scrontab(BATCH, "0 22 * * 1-5", Path("/home/me/my work/n.sbatch"))
    assert text.splitlines() == [
        "#SCRON --job-name=cluster-nightly-start",
        "#SCRON --time=5",
        "0 22 * * 1-5 sbatch --dependency=singleton '/home/me/my work/n.sbatch'",
    ]
    with pytest.raises(SlurmError, match="must be five fields"):
        scrontab(BATCH, "0 22 * *; x", Path("/n"))
    with pytest.raises(SlurmError, match="--at: the minute must be from 0 to 59, got '99'"):
        scrontab(BATCH, "99 99 * * *", Path("/n"))


def test_the_example_is_what_would_be_written() -> None:
    """For those who would rather copy it than have it written."""
    example = ROOT / "scripts" / "slurm" / "nightly.sbatch"
    batch = replace(
        BATCH,
        spec=Path("/home/me/pi/nightly.yaml"),
        folder=Path("/home/me/pi"),
        store=Path("/home/me/pi/runs"),
        options=("nodes=3", "ntasks-per-node=16", "time=4:00:00"),
    )
    assert example.read_text() == script(batch, "nightly.sbatch")
