"""The key ``dispy``: how nodes are met that stand by themselves."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from cluster.spec.hosts import Frozen
from cluster.spec.values import Choice, Folder, Text, fault

_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


class SecretPlace(Frozen):
    """Where a secret is; one of the two."""

    env: Annotated[str, Text(_VARIABLE, "the name of a variable")] | None = Field(
        default=None, description="The environment variable that holds it."
    )
    file: Annotated[str, Folder(form="a file, without $ and ~")] | None = Field(
        default=None,
        description="The file that holds it, relative to the spec; only you may read it (0600).",
    )

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.env is None) is (self.file is None):
            raise fault("must say one place", "write {env: NAME} or {file: PATH}")
        return self


class Dispy(Frozen):
    """How nodes are met that stand by themselves, those with attach."""

    secret: SecretPlace | None = Field(
        default=None,
        description="Where the secret is that the nodes were started with; needed where sealed.",
    )
    network: Annotated[str, Choice(names=("sealed", "trusted"), what="network")] = Field(
        default="sealed",
        description="sealed: they are nodes of ours (cluster node), and every connection proves "
        "the secret. trusted: they are stock dispynodes, which run, unencrypted, whatever the "
        "network sends them.",
    )
