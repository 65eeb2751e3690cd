"""The command that starts an agent, and the meaning of its last output if the agent does not start.

The system's own ssh is used, with the user's configuration. No check is weakened: host keys are
verified, and ssh never asks for a password.
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
# Seconds for ssh to connect.
_CONNECT = 10
# ssh's own detection of a dead connection. Our heartbeat is faster; this only makes sure that the
# ssh process itself ends.
_ALIVE = ("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")


class Trouble(NamedTuple):
    """Why an agent did not start.

    Attributes:
        reason: for people.
        fix: what the user can do about it.
        final: trying again cannot help.
    """

    reason: str
    fix: str
    final: bool


def is_here(node: Node) -> bool:
    """Whether the node is this machine, reached neither by ssh nor through an attached node."""
    return is_local(node.host) and all(each is None for each in (node.user, node.port, node.attach))


def agent_command(node: Node) -> list[str]:
    """The arguments that start the agent of a node."""
    if is_here(node):
        return python_command(node.python or sys.executable, AGENT)
    remote = ["exec", node.python or sys.executable, "-P", "-m", AGENT]
    return [*ssh_command(node), shlex.join(remote)]


def agent_environment(node: Node) -> dict[str, str]:
    """The environment of the command that starts an agent.

    It is ours; for an agent on this machine, without the traces of an ssh session that contains us:
    the agent would take its addresses from them.
    """
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
    """A pattern in an agent's last output, and the trouble that it means."""

    pattern: str
    reason: str
    fix: str
    final: bool = True


# The first match counts. Anything else is taken to be temporary, and is tried again.
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
        # The messages of a shell, and of Slurm.
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
    """Why an agent ended before it was ready.

    Args:
        node: its host.
        words: how it ended, with its last output.
        version: of this package, for the fix.
    """
    names = {"host": node.host, "python": node.python or sys.executable, "version": version}
    for sign in _SIGNS:
        if re.search(sign.pattern, words):
            return Trouble(sign.reason.format(**names), sign.fix.format(**names), sign.final)
    return Trouble(f"its agent did not come up: {words}", "", False)
