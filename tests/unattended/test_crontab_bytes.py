"""The crontab of somebody else's making: bytes in, the same bytes out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.unattended.schedule import cron
from cluster.unattended.schedule.job import ScheduledJob
from tests.cli.shell import ROOT, cluster, environment, spec

# crontab(1), but for its folder: it keeps whatever bytes it is given.
CRONTAB = """\
#!/bin/sh
tab=$(dirname "$0")/tab
case "$1" in
-l) [ -e "$tab" ] && exec cat "$tab"; printf 'no crontab for caf\\351\\n' >&2; exit 1;;
-r) exec rm "$tab";;
-) exec cat > "$tab";;
esac
"""
MINE = {
    "Latin-1": b"# caf\xe9\n*/5 * * * * true\n",
    "line breaks of Windows": b"MAILTO=x\r\n*/5 * * * * true\r\n",
    "both kinds of line breaks": b"MAILTO=x\r\n# mine\n\n*/5 * * * * true\r\n",
    "other separators of lines": b"# a\x0bb\x0cc\x85d\xe2\x80\xa8e\rf\n",
    "a byte order mark": b"\xef\xbb\xbf# mine\n",
    "blanks at both ends": b"\n\n  \t# mine  \n\n\n",
}


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a crontab that is the test's alone, whose program is the first on PATH."""
    program = tmp_path / "bin" / "crontab"
    program.parent.mkdir()
    program.write_text(CRONTAB)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program.parent / "tab"


def job(tmp_path: Path) -> ScheduledJob:
    """Of a spec that need not be there."""
    return ScheduledJob("night-1", tmp_path / "night.yaml", tmp_path, tmp_path / "runs")


@pytest.mark.parametrize("mine", MINE.values(), ids=MINE)
def test_every_byte_that_is_not_ours_stays(mine: bytes, tab: Path, tmp_path: Path) -> None:
    """In any encoding, with any line breaks: while our lines are there, and afterwards."""
    tab.write_bytes(mine)
    cron.install(job(tmp_path), "@daily")
    assert tab.read_bytes().startswith(mine)
    assert b"\n@daily " in tab.read_bytes()
    assert cron.remove("night-1", tmp_path)
    assert tab.read_bytes() == mine


def test_our_lines_are_found_with_the_line_breaks_of_windows(tab: Path, tmp_path: Path) -> None:
    """An editor may have given them to the whole crontab."""
    tab.write_bytes(b"# mine\n")
    cron.install(job(tmp_path), "@daily")
    tab.write_bytes(tab.read_bytes().replace(b"\n", b"\r\n"))
    cron.install(job(tmp_path), "@hourly")
    assert b"@daily" not in tab.read_bytes()
    assert cron.remove("night-1", tmp_path)
    assert tab.read_bytes() == b"# mine\r\n"


def test_a_crontab_without_lines_of_ours_is_left_alone(tab: Path, tmp_path: Path) -> None:
    """Also one whose last line does not end; and there is nothing to tell of."""
    tab.write_bytes(b"# mine")
    assert not cron.remove("night-1", tmp_path)
    assert tab.read_bytes() == b"# mine"


def test_the_verb_bears_such_a_crontab(tab: Path, tmp_path: Path) -> None:
    """Both ways; and what crontab(1) says may be in any encoding too."""
    path = spec(tmp_path)
    env = environment(PYTHONPATH=str(ROOT))
    for before in (None, MINE["Latin-1"]):
        if before is not None:
            tab.write_bytes(before)
        for words in (["--cron", "@daily"], ["--remove"]):
            done = cluster("schedule", path, *words, cwd=tmp_path, env=env)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert (tab.read_bytes() if tab.exists() else None) == before
