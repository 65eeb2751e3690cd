"""Every spec in configs/ is one that a newcomer can copy: it loads, and its editor helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.spec import Spec, load
from cluster.spec.points import expand
from cluster.spec.request import resolve

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def named(name: str) -> Spec:
    """The spec configs/NAME.yaml."""
    return load(ROOT / "configs" / f"{name}.yaml")


def test_the_specs_are_these() -> None:
    """The main job, the article's trial, and the three that are not pi."""
    names = {path.stem for path in CONFIGS}
    assert names >= {"pi", "article", "ball", "option", "histogram"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_spec_loads_from_any_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kernel is found, its params fit, and its seed is fixed, whatever the working folder."""
    monkeypatch.chdir(tmp_path)
    spec = load(path)
    requests = [point.request for point in expand(spec)] if spec.sweep else [resolve(spec)]
    for request in requests:
        assert request.seed == request.spec.seed
        assert request.reference is not None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_spec_names_the_schema_in_its_first_line(path: Path) -> None:
    """Editors with a YAML language server complete and check it."""
    first, _, rest = path.read_text().partition("\n")
    mark = "# yaml-language-server: $schema="
    assert first.startswith(mark)
    assert (path.parent / first.removeprefix(mark)).is_file()
    assert rest.startswith("# "), "a spec says in a comment what it is for"


def test_the_article_s_trial_is_3000_blocks_of_4000() -> None:
    """The baseline is the article's own experiment, one try after another."""
    spec = named("article")
    assert (spec.samples, spec.block) == (3000 * 4000, 4000)
    assert resolve(spec).source.name == "pi.py:pi_python"


def test_the_main_job_is_a_few_seconds_of_the_fast_kernel() -> None:
    """Its work is bounded by samples, so that the digest in the README is stable."""
    spec = named("pi")
    assert (spec.samples, spec.until) == (6 * 10**9, None)
    assert resolve(spec).source.name == "pi.py:pi"


def test_the_option_runs_to_a_precision() -> None:
    """Half a cent at 95 %, and an end in any case."""
    until = named("option").until
    assert until is not None
    assert (until.half_width, until.confidence, until.max_samples) == (0.005, 0.95, 10**9)
    assert named("option").samples is None
