"""How a module that a kernel needs gets to a host that lacks it."""

from __future__ import annotations

import pytest

from cluster.hosts.connect.lacking import installing
from cluster.hosts.fingerprint import failed, missing_module
from cluster.hosts.nodes import Node


@pytest.mark.parametrize(
    ("module", "node", "line"),
    [
        ("numpy", Node("h1", python="/opt/python"), "ssh h1 /opt/python -m pip install numpy"),
        ("yaml", Node("h1", user="me", port=22), "ssh -p 22 me@h1 /its -m pip install pyyaml"),
        ("sklearn", Node("localhost", python="/p"), "/p -m pip install scikit-learn"),
        ("cv2", Node("h1", attach=5000), "there: /its -m pip install opencv-python-headless"),
        ("nump", Node("h1"), "ssh h1 /its -m pip install nump, if that is the name of its package"),
    ],
)
def test_the_line_that_installs_a_module_names_its_package_and_interpreter(
    module: str, node: Node, line: str
) -> None:
    """As it is typed; a name that nobody here knows is not said to be a package's."""
    python = None if node.python else "/its"
    assert installing(module, node, python) == line


def test_a_part_of_python_is_not_to_be_installed() -> None:
    """The interpreter was built without it."""
    assert "built without sqlite3" in installing("sqlite3", Node("h1"))


def test_a_missing_module_is_told_from_other_failures() -> None:
    """By what Python says, at import or later; of a part of a package its package is named."""
    words = "k.py does not import: ModuleNotFoundError: No module named 'scipy.special'"
    assert missing_module(words) == "scipy"
    assert missing_module(failed("ModuleNotFoundError: No module named 'PIL'")) == "PIL"
    assert missing_module(failed("ImportError: cannot import name 'x' from 'y'")) is None
