"""Secrets, which a spec names but never contains: ``${NAME}`` and ``${file:/path}``."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.common.errors import ClusterError
from cluster.common.secret import REFERENCE

_LONGEST = 4096


class SecretError(ClusterError):
    """A secret that is missing, or readable by others."""

    code = 2


@dataclass(frozen=True)
class Filled:
    """A text with its secrets; its repr masks them."""

    text: str
    secrets: tuple[str, ...]

    def masked(self, words: str) -> str:
        """Text, with ``***`` in place of every secret."""
        # The longest first: one secret may be a part of another.
        for secret in sorted(self.secrets, key=len, reverse=True):
            words = words.replace(secret, "***")
        return words

    def __repr__(self) -> str:
        return f"Filled({self.masked(self.text)!r})"


def filled(text: str, environ: Mapping[str, str]) -> Filled:
    """Substitute the secrets in a text.

    Args:
        text: with references to them.
        environ: where those by name are looked for.

    Raises:
        SecretError: one is not there, is empty, or lies in a file that others can read.
    """
    secrets: list[str] = []

    def value(found: re.Match[str]) -> str:
        file, name = found["file"], found["name"]
        secret = _of_file(Path(file)) if file else _of_environment(name, environ)
        secrets.append(secret)
        return secret

    made = REFERENCE.sub(value, text)
    if "$" in REFERENCE.sub("", text):
        raise SecretError("a secret is written as ${NAME} or ${file:/path}")
    return Filled(made, tuple(secrets))


def _of_environment(name: str, environ: Mapping[str, str]) -> str:
    secret = environ.get(name, "")
    if not secret:
        fix = "set it, or keep the secret in a file: ${file:/path} (cron gives no variables)"
        raise SecretError(f"the environment has no {name}", fix=fix)
    return _plain(secret, name)


def _of_file(path: Path) -> str:
    try:
        # A pipe that nobody writes to must not hold the run up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            _check_private(os.fstat(descriptor), path)
            return _plain(file.read(_LONGEST).decode(errors="replace").strip(), str(path))
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from None


def _check_private(status: os.stat_result, path: Path) -> None:
    """Check the open file, not its path, so that it cannot be swapped in between."""
    if not stat.S_ISREG(status.st_mode):
        raise SecretError(f"{path} is no plain file", fix="put the secret into one, mode 0600")
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        fix = f"chmod 600 {path}"
        raise SecretError(f"{path} holds a secret, and is not yours alone", fix=fix)


def _plain(secret: str, place: str) -> str:
    """The secret, checked to be usable in an address."""
    if not secret or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise SecretError(f"{place} holds no secret of plain letters, on one line")
    return secret
