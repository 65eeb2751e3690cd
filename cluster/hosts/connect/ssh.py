"""How an agent is started: the command, and what its last words mean when it does not come up.

The system's own ssh does it, with the person's own configuration. Nothing is loosened: host keys
are checked, and no password is ever asked for.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from typing import NamedTuple

from cluster.hosts.nodes import Node, is_local
from cluster.hosts.worker_pool import python_command

AGENT = "cluster.hosts.agent"
_CONNECT = 10
# ssh notices a dead connection by itself too, later than we do: its end is what frees the process.
_ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")


class Trouble(NamedTuple):
    """Why an agent did not come up: in words, what to do, and whether trying again may help."""

    reason: str
    fix: str
    final: bool


def is_here(node: Node) -> bool:
    """Whether the node is this machine, reached without ssh, and without one that stands."""
    return is_local(node.host) and all(each is None for each in (node.user, node.port, node.attach))


def agent_command(node: Node) -> list[str]:
    """The arguments that start the agent of a node."""
    if is_here(node):
        return python_command(node.python or sys.executable, AGENT)
    remote = ["exec", node.python or sys.executable, "-P", "-m", AGENT]
    return [*ssh_command(node), shlex.join(remote)]


def agent_environment(node: Node) -> dict[str, str]:
    """Ours; for an agent beside us without the traces of an ssh session that we may be in."""
    gone = {"SSH_CONNECTION"} if is_here(node) else set()
    return {name: value for name, value in os.environ.items() if name not in gone}


def ssh_command(node: Node) -> list[str]:
    """The arguments of ssh up to the host; a command for the remote shell follows."""
    # No terminal, no forwarding of anything of ours, and never a question.
    words = ["ssh", "-T", "-a", "-x", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT}"]
    words += _ALIVE
    if file := os.environ.get("CLUSTER_SSH_CONFIG"):
        words += ["-F", file]
    words += ["-p", str(node.port)] if node.port is not None else []
    words += ["-l", node.user] if node.user is not None else []
    return [*words, "--", node.host]


class _Sign(NamedTuple):
    """What in an agent's last words tells of which trouble; it may pass where it is not final."""

    pattern: str
    reason: str
    fix: str
    final: bool = True


# The first that fits; what is not listed may pass, and is tried again.
_SIGNS = (
    _Sign(
        r"IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known",
        "find out why; if the host was set up anew: ssh-keygen -R {host}, then ssh {host} by hand",
    ),
    _Sign(
        r"Host key verification failed|No \S+ host key is known",
        "its host key is not known here",
        "connect once by hand, and compare the key: ssh {host}",
    ),
    _Sign(
        r"Could not resolve hostname",
        "its name does not resolve",
        "correct the name, or give it an entry in ~/.ssh/config or /etc/hosts",
    ),
    _Sign(
        r"Permission denied \(",
        "it does not let us in",
        "set up a key without a password; this must work: ssh -o BatchMode=yes {host} true",
    ),
    _Sign(
        r"No module named '?cluster",
        "cluster is not installed for its Python",
        "there: {python} -m pip install cluster-montecarlo=={version};"
        " or name another interpreter with the node's key python",
    ),
    _Sign(
        # What a shell says, and what Slurm does.
        r"exited with 12[67]|error: execve\(\): .*: No such file",
        "there is no Python at {python}",
        "name the interpreter there with the node's key python",
    ),
    _Sign(
        r"connect to .* Connection refused",
        "nothing answers at its ssh port",
        "start sshd there, or name its port with the node's key port",
        final=False,
    ),
    _Sign(
        r"connect to .* (timed out|No route to host|Network is unreachable)",
        "it does not answer",
        "see whether it is up, and whether a firewall lets ssh through: ssh {host}",
        final=False,
    ),
)


def trouble(node: Node, words: str, version: str) -> Trouble:
    """What it means that an agent ended before it was ready, by how it ended and what it said."""
    names = {"host": node.host, "python": node.python or sys.executable, "version": version}
    for sign in _SIGNS:
        if re.search(sign.pattern, words):
            return Trouble(sign.reason.format(**names), sign.fix.format(**names), sign.final)
    return Trouble(f"its agent did not come up: {words}", "", False)
