"""The process that posts one message: order on standard input, answer on standard output."""

from __future__ import annotations

import json
import sys
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener


class _NoRedirect(HTTPRedirectHandler):
    """Follows no redirection, which could lead from https to anywhere: it counts as a failure."""

    def redirect_request(self, *_args: Any) -> None:
        return None


def main() -> None:
    """Post the message, print the answer, and exit with 1 if it was not accepted."""
    order = json.load(sys.stdin)
    words, fine = posted(order["url"], order["body"], order["timeout"])
    sys.stdout.write(words)
    sys.exit(0 if fine else 1)


def posted(url: str, body: object, timeout: float) -> tuple[str, bool]:
    """Post JSON to an address.

    Args:
        url: the address, which may hold a secret.
        body: the JSON object.
        timeout: in seconds.

    Returns:
        The answer in words, which do not contain the address, and whether it is 2xx.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "cluster"}
    request = Request(url, json.dumps(body).encode(), headers, method="POST")
    handlers: list[Any] = [_NoRedirect()]
    if urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1"):
        handlers.append(ProxyHandler({}))
    try:
        with build_opener(*handlers).open(request, timeout=timeout) as answer:
            return f"HTTP {answer.status}", True
    except HTTPError as error:
        return f"HTTP {error.code}", False
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return f"{type(error).__name__}: {reason}", False
