"""`cluster schedule --slurm`: the script in the folder, its lines for scrontab, and no more."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.cli.shell import cluster, spec

SLURM = ("--slurm", "--sbatch", "time=2:00:00", "--sbatch", "nodes=3")


def schedule(folder: Path, *words: str, code: int = 0) -> Any:
    """The document of the verb, called in a folder."""
    done = cluster("schedule", *words, "--json", cwd=folder)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_the_script_is_written_and_taken_away_again(tmp_path: Path) -> None:
    """Where it was asked for; what sbatch is given is what is printed."""
    path = str(spec(tmp_path, nodes="auto"))
    shown = schedule(tmp_path, path, *SLURM, "--print")
    assert not list(tmp_path.glob("*.sbatch"))
    made = schedule(tmp_path, path, *SLURM)
    (file,) = tmp_path.glob("*.sbatch")
    assert made["files"] == shown["files"] == [{"path": str(file), "text": file.read_text()}]
    assert made["commands"] == [["sbatch", str(file)]]
    assert "\n#SBATCH --time=2:00:00\n#SBATCH --nodes=3\n" in file.read_text()
    subprocess.run(["bash", "-n", str(file)], check=True)
    assert schedule(tmp_path, path, "--remove")["removed"] == ["slurm"]
    assert not file.exists()


def test_the_script_is_found_from_another_folder(tmp_path: Path) -> None:
    """Where it lies beside its spec."""
    place = tmp_path / "night"
    place.mkdir()
    path = str(spec(place))
    schedule(place, path, *SLURM)
    assert schedule(tmp_path, path, "--remove")["removed"] == ["slurm"]
    assert not list(place.glob("*.sbatch"))


def test_a_sweep_of_very_many_points_needs_a_yes(tmp_path: Path) -> None:
    """Which the script has too: nobody is there to be asked at night."""
    axes = {"seed": [1], "samples": "range(1, 100002, 1)"}
    sweep = {"matrix": axes, "exclude": [{"seed": 1}], "include": [{"seed": 2}]}
    path = str(spec(tmp_path, sweep=sweep))
    error = schedule(tmp_path, path, *SLURM, code=2)["error"]
    assert (error["message"], error["fix"]) == (
        "the sweep has 100,002 points",
        "add --yes to confirm",
    )
    made = schedule(tmp_path, path, *SLURM, "--yes", "--print")
    assert "--quiet --store" in made["files"][0]["text"]
    assert " --yes)\n" in made["files"][0]["text"]
    single = str(spec(tmp_path))
    assert "--yes is for a sweep" in json.dumps(schedule(tmp_path, single, "--yes", *SLURM, code=2))


def test_the_warning_can_be_longer_or_shorter(tmp_path: Path) -> None:
    """For long blocks, and for short limits, which would drain at once, again and again."""
    path = str(spec(tmp_path))
    error = schedule(tmp_path, path, "--slurm", "--sbatch", "time=2", code=2)["error"]
    assert error["message"] == "the time limit must be above the warning of 180 s, got 2"
    fix = error["fix"].partition(" or ")[2].split()
    text = schedule(tmp_path, path, "--slurm", "--sbatch", "time=2", *fix, "--print")["files"][0]
    assert "\n#SBATCH --signal=B:USR1@40\n#SBATCH --time=2\n" in text["text"]
    assert "USR1 to this script 40 s before the limit" in text["text"]
    for signal in ("USR1@60", "B:TERM@60"):
        error = schedule(tmp_path, path, "--slurm", "--sbatch", f"signal={signal}", code=2)["error"]
        assert "signal=B:USR1@SECONDS" in error["fix"]


def test_a_time_makes_lines_for_scrontab(tmp_path: Path) -> None:
    """They hand in the script; nobody's scrontab is touched."""
    made = schedule(tmp_path, str(spec(tmp_path)), *SLURM, "--at", "0 22 * * 1-5", "--print")
    script, lines = made["files"]
    assert lines["text"].splitlines()[-1].startswith("0 22 * * 1-5 sbatch --dependency=singleton")
    assert lines["text"].rstrip().endswith(script["path"])


def test_a_script_of_somebody_else_stays(tmp_path: Path) -> None:
    """It is neither written over nor removed."""
    path = str(spec(tmp_path))
    place = Path(schedule(tmp_path, path, *SLURM, "--print")["files"][0]["path"])
    place.write_text("#!/bin/sh\n")
    assert "was not written by cluster" in json.dumps(schedule(tmp_path, path, *SLURM, code=2))
    assert schedule(tmp_path, path, "--remove")["removed"] == []
    assert place.read_text() == "#!/bin/sh\n"


def test_remove_with_print_removes_nothing(tmp_path: Path) -> None:
    """--print touches nothing, whatever stands beside it."""
    path = str(spec(tmp_path))
    schedule(tmp_path, path, *SLURM)
    error = schedule(tmp_path, path, "--remove", "--print", code=2)["error"]
    assert error["fix"] == "give one of them"
    assert len(list(tmp_path.glob("*.sbatch"))) == 1


def test_a_spec_has_one_job_by_whatever_path(tmp_path: Path) -> None:
    """So what was scheduled from one folder can be taken away from another."""
    path = spec(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    ways = (path, Path(path.name), Path("below/../", path.name), tmp_path / "link" / path.name)
    names = {schedule(tmp_path, str(way), *SLURM, "--print")["name"] for way in ways}
    assert len(names) == 1
