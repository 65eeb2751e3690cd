"""What a shell on a host makes of the command that starts its agent: the words that were meant."""

from __future__ import annotations

import ast
import random
import subprocess
from pathlib import Path

import pytest

import cluster
from cluster.hosts.connect.ssh import AGENT, agent_command
from cluster.hosts.nodes import Node, NodeError

SHELLS = ("sh", "bash")
STRINGS = 10_000
# What some shell takes for more than a letter, words that do harm, and letters of all lengths.
PIECES = (
    *"|&;<>()$`\\\"' *?[]#~=%!{},^-+@:.\u00a0\u2028\U0001f600\u00e9ab1",
    *("$(id)", "`id`", "${HOME}", "$'\\n'", "$((1))", "&& id", "; id", "|| id", "2>&1", "<(id)"),
    *("-c", "--", "-oProxyCommand=id", "\\'", "'\\''", "'\"'\"'", "%s", "%n", "\\0", "!!", "~root"),
)


def hostile(seed: int) -> list[str]:
    """So many texts that a node takes for the path of an interpreter."""
    draw = random.Random(seed)
    made: list[str] = []
    while len(made) < STRINGS:
        text = "".join(draw.choices(PIECES, k=draw.randint(1, 12)))
        try:
            made.append(Node("h1", python=text).python or "")
        except NodeError:
            assert text.startswith("-")
    return made


@pytest.mark.fault(89)
@pytest.mark.parametrize("shell", SHELLS)
def test_no_text_is_more_to_a_shell_than_text(shell: str) -> None:
    """10,000 texts come out of a real shell as they went into the command for it."""
    texts = hostile(1)
    for first in range(0, STRINGS, 500):
        some = texts[first : first + 500]
        commands = [agent_command(Node("h1", python=text))[-1] for text in some]
        script = "".join(f"printf '%s\\0' {command}\n" for command in commands)
        done = subprocess.run([shell, "-c", script], capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        wanted = [word for text in some for word in ("exec", text, "-P", "-m", AGENT)]
        assert done.stdout.decode().split("\0")[:-1] == wanted


@pytest.mark.fault(83, 89)
@pytest.mark.parametrize("key", ["host", "user", "python"])
def test_what_ssh_would_take_for_an_option_is_no_node(key: str) -> None:
    """And a host stands behind the end of the options."""
    with pytest.raises(NodeError):
        Node.from_json({**Node("h1").to_json(), key: "-oProxyCommand=id"})
    command = agent_command(Node("h1", user="me", port=22))
    assert command[-3:-1] == ["--", "h1"]


@pytest.mark.fault(89)
def test_the_package_starts_no_shell_with_a_text_of_others() -> None:
    """Every process is started by a list of words."""
    for path in Path(cluster.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg != "shell", f"{path}:{node.value.lineno}"
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                assert name not in {"os.system", "os.popen", "subprocess.getoutput"}, path
