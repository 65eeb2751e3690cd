"""The keys of unattended runs: when they may work, and who is notified."""

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
# A secret may be part of the path, never of the host, so messages can name the host.
_URL = re.compile(r"https?://[^\s/${}@?#]+([/?][^\s]*)?")


@dataclass(frozen=True)
class Hours(Text):
    """A window of hours; it crosses midnight if it ends before it begins."""

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
    """A URL that messages are posted to: encrypted, or on this machine."""

    form: str = "a URL, https:// unless on localhost"

    def judge(self, value: str) -> None:
        if not _URL.fullmatch(value):
            secret = "a secret is written as ${NAME} or ${file:/path}, after the host"
            # The value is not quoted: it may contain a password.
            raise fault("must be a URL such as https://host/path", secret)
        if not value.startswith("https://") and not re.match(_LOCAL, value):
            raise fault("must begin with https://: http is only for localhost")
        if "$" in REFERENCE.sub("", value):
            form = "a secret is written as ${NAME} or ${file:/path}"
            cure = "a literal $ is written as %24"
            raise fault(form, cure)


@dataclass(frozen=True)
class CommandWords(Rule):
    """A command as a list of arguments, run without a shell."""

    def check(self, value: Any) -> tuple[str, ...]:
        fine = isinstance(value, list | tuple) and value
        if not fine or not all(isinstance(argument, str) and argument for argument in value):
            raise fault(f"must be a list of arguments, got {show(value)}", "write it as [a, b]")
        if any("\0" in argument for argument in value):
            raise fault("an argument of a command cannot contain a NUL")
        if any("${" in argument for argument in value):
            cure = "let the command read the secret from the run's environment, which it has"
            raise fault("a secret in a command's arguments is visible to every user", cure)
        return tuple(value)

    def schema(self) -> dict[str, Any]:
        argument = {"type": "string", "minLength": 1}
        return {"type": "array", "minItems": 1, "items": argument}


class Schedule(Frozen):
    """When a run may work."""

    window: Annotated[str, Hours()] | None = Field(
        default=None,
        description="Hours in which the run may work (22:00-06:00); at their end it drains and "
        "stays partial, and a start outside them ends at once.",
    )
    timezone: Annotated[str, ZoneName()] | None = Field(
        default=None,
        description="Time zone of the window; by default that of the machine (/etc/localtime).",
    )

    @model_validator(mode="after")
    def _zone_of_a_window(self) -> Self:
        if self.timezone is not None and self.window is None:
            raise fault("a time zone needs a window", "give schedule.window: 22:00-06:00")
        return self

    def hours(self) -> Window | None:
        """The window, or None.

        Raises:
            WindowError: the time zone is unknown here: the spec was read on another machine.
        """
        return None if self.window is None else Window.parse(self.window, self.timezone)


class Notify(Frozen):
    """Who is notified, and of what. A notification that fails or hangs does not harm the run."""

    on: tuple[Annotated[str, Choice(names=EVENTS, what="event", form="an event")], ...] = Field(
        default=("done", "failed", "partial"),
        description="The events to report: how a start of the run ended, and the loss of a node.",
    )
    command: Annotated[tuple[str, ...], CommandWords()] | None = Field(
        default=None,
        description="A program and its arguments; it gets the message as JSON on standard input.",
    )
    webhook: Annotated[str, Webhook()] | None = Field(
        default=None,
        description="URL that the message is posted to as JSON; ${NAME} in its path stands for "
        "an environment variable, ${file:/path} for a file that only you can read; a literal "
        "secret is refused.",
    )

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if self.command is None and self.webhook is None:
            raise fault("names no recipient", "give notify.command or notify.webhook")
        if not self.on:
            raise fault("on names no event", f"the events are {', '.join(EVENTS)}")
        return self
