"""Secrets: a spec names where one is stored, and never holds it."""

from __future__ import annotations

import os
import re
import stat
from typing import NamedTuple

from cluster.common.errors import UsageError

LEAST = 16
# ${NAME} or ${file:/path} in a text: replaced by the secret only when the text is used.
REFERENCE = re.compile(r"\$\{(?:file:(?P<file>/[^}]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*))\}")


class Secret(NamedTuple):
    """The environment variable or the file that holds a secret; exactly one is given.

    Attributes:
        env: name of the variable, or None.
        file: absolute path of a file that only its owner can read, or None.
    """

    env: str | None = None
    file: str | None = None

    def read(self) -> str:
        """Read the secret: one line of at least 16 characters.

        Raises:
            UsageError: it is missing, too short, not one printable line, or readable by others.
        """
        place = f"the file {self.file}" if self.env is None else f"the variable {self.env}"
        text = os.environ.get(self.env) if self.env is not None else self._contents()
        if text is None:
            raise UsageError(f"{place}, which should hold the secret, is not set", fix=_MAKE)
        text = text.removesuffix("\n")
        if len(text) < LEAST or not text.isprintable():
            what = f"must hold the secret: one line of at least {LEAST} characters"
            raise UsageError(f"{place} {what}", fix=_MAKE)
        return text

    def _contents(self) -> str:
        assert self.file is not None
        try:
            # The mode is taken from the open file: the path may be replaced at any moment.
            with open(self.file, encoding="utf-8") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise UsageError(
                        f"the secret in {self.file} can be read by others (mode {mode:04o})",
                        fix=f"chmod 600 {self.file}; make a new secret if others may have read it",
                    )
                return file.read(1 << 16)
        except UnicodeDecodeError:
            raise UsageError(f"the secret in {self.file} is not text", fix=_MAKE) from None
        except OSError as error:
            reason = f"the secret in {self.file} cannot be read: {error.strerror}"
            raise UsageError(reason, fix=_MAKE) from None


_MAKE = "make one: (umask 077; openssl rand -hex 32 > FILE), the same file on every host"
