"""What kernels start and say on other hosts is as it is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.test_children import KERNELS
from tests.lab.harness import Lab
from tests.lab.site import Site, await_no_orphans


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["forks", "spawns", "hashes"])
def test_what_a_kernel_starts_on_a_host_ends_and_finds_its_functions(
    kernel: str, backend: str, lab: Lab, tmp_path: Path
) -> None:
    """Pools of all kinds, and sets of one order; nothing is left behind, what it says is kept."""
    (tmp_path / "near.py").write_text("def double(x): return 2 * x\n")
    says = KERNELS.replace(
        f"def {kernel}(",
        f"def f(rng, samples):\n    print('said there')\n"
        f"    return {kernel}(rng, samples)\n\n\ndef {kernel}(",
    )
    site = Site(tmp_path, lab, backend, blocks=6, kernel=says, include=["near.py"])
    site.spec |= {"block": 100, "samples": 600}
    site.write()
    result = site.run()
    assert (result["state"], result["failures"]) == ("done", [])
    serial = ("submit", "spec.yaml", "--set", "backend=serial", "--set", "nodes=localhost:1")
    assert result["digest"] == site.run(*serial, "--store", "serial")["digest"]
    log = (tmp_path / "runs" / "logs" / f"{result['run']}.log").read_text()
    assert "h1 slot 0, block " in log
    assert "said there" in log
    await_no_orphans(lab)
