"""What the tests of the command line share."""

from __future__ import annotations

import pytest

import cluster
from tests.cli.shell import spec


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the slow kernel's spec, where nobody stopped it: quick, on many threads."""
    folder = tmp_path_factory.mktemp("unbroken")
    many = spec(folder, "slow", backend="threads", nodes="localhost:10")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the kernel leaves its mark
        digest = cluster.submit(cluster.load(many)).digest
    assert digest
    return digest
