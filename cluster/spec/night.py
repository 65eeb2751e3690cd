"""The keys of runs that nobody watches: when they may work, and who is told how they went."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from cluster.common.secret import REFERENCE
from cluster.spec.hosts import Frozen
from cluster.spec.values import Choice, Rule, Text, fault, show
from cluster.spec.window import Window, WindowError, zone_of

EVENTS = ("done", "failed", "partial", "node_lost")
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]"
_LOCAL = r"http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?(/|$)"
# A secret may be part of the path, never of the host: so the host can be named in messages.
_URL = re.compile(r"https?://[^\s/${}@?#]+([/?][^\s]*)?")


@dataclass(frozen=True)
class Hours(Text):
    """A window of hours; whether it crosses midnight, its times say."""

    form: str = "a window such as 22:00-06:00"
    pattern: str | None = f"{_TIME} ?- ?{_TIME}"
    cure: str | None = "times are 00:00 to 23:59; midnight is 00:00, also as the end"

    def judge(self, value: str) -> None:
        _judged(Window.parse, value, "UTC")


@dataclass(frozen=True)
class ZoneName(Text):
    """A name of the tz database."""

    form: str = "a time zone such as Europe/Berlin"

    def judge(self, value: str) -> None:
        _judged(zone_of, value)


def _judged(read: Any, *arguments: str) -> None:
    try:
        read(*arguments)
    except WindowError as error:
        raise fault(str(error), error.fix) from None


@dataclass(frozen=True)
class Webhook(Text):
    """An address that a message is posted to: private on its way, or on this machine."""

    form: str = "an address, https:// unless on localhost"

    def judge(self, value: str) -> None:
        if not _URL.fullmatch(value):
            secret = "a secret is written as ${NAME} or ${file:/path}, after the host"
            # Not quoted: what stands there instead may be a password.
            raise fault("must be an address such as https://host/path", secret)
        if not value.startswith("https://") and not re.match(_LOCAL, value):
            raise fault("must begin with https://: http is for localhost alone")
        if "$" in REFERENCE.sub("", value):
            form = "a secret is written as ${NAME} or ${file:/path}"
            cure = "a $ of the address itself is written as %24"
            raise fault(form, cure)


@dataclass(frozen=True)
class CommandWords(Rule):
    """A command as the list of its words; no shell reads it."""

    def check(self, value: Any) -> tuple[str, ...]:
        fine = isinstance(value, list | tuple) and value
        if not fine or not all(isinstance(word, str) and word for word in value):
            raise fault(f"must be a list of words, got {show(value)}", "write it as [a, b]")
        if any("\0" in word for word in value):
            raise fault("a word of a command cannot hold a NUL")
        if any("${" in word for word in value):
            cure = "the command has the run's environment: let it read the secret there"
            raise fault("a secret among a command's words would be seen by everyone", cure)
        return tuple(value)

    def schema(self) -> dict[str, Any]:
        word = {"type": "string", "minLength": 1}
        return {"type": "array", "minItems": 1, "items": word}


class Schedule(Frozen):
    """When a run may work."""

    window: Annotated[str, Hours()] | None = Field(
        default=None,
        description="Hours in which it may work (22:00-06:00); at their end it drains and is left "
        "partial, and outside of them a start ends at once.",
    )
    timezone: Annotated[str, ZoneName()] | None = Field(
        default=None,
        description="Time zone of the window; without it, that of the machine (/etc/localtime).",
    )

    @model_validator(mode="after")
    def _zone_of_a_window(self) -> Self:
        if self.timezone is not None and self.window is None:
            raise fault("a time zone goes with a window", "give schedule.window: 22:00-06:00")
        return self

    def hours(self) -> Window | None:
        """The window, or None where there is none.

        Raises:
            WindowError: the machine has another tz database than the one that judged the spec.
        """
        return None if self.window is None else Window.parse(self.window, self.timezone)


class Notify(Frozen):
    """Who is told how a run goes. A notifier that fails or hangs does the run no harm."""

    on: tuple[Annotated[str, Choice(names=EVENTS, what="event", form="an event")], ...] = Field(
        default=("done", "failed", "partial"),
        description="What is told: how a start of the run ended, and a node that was lost.",
    )
    command: Annotated[tuple[str, ...], CommandWords()] | None = Field(
        default=None,
        description="A program and its words; it gets the message as JSON on its standard input.",
    )
    webhook: Annotated[str, Webhook()] | None = Field(
        default=None,
        description="Address that the message is posted to as JSON; ${NAME} in its path stands "
        "for a variable of the environment, ${file:/path} for a file that only you can read; a "
        "secret itself is refused.",
    )

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.command is None and self.webhook is None:
            raise fault("nobody is named to be told", "give notify.command or notify.webhook")
        if not self.on:
            raise fault("on names no event, so nobody is told", f"it has {', '.join(EVENTS)}")
        return self
