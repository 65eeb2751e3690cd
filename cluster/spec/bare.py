"""Detection of secrets written into a spec, which should only name where they are stored."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from cluster.common.secret import REFERENCE

# Services whose webhook URL is itself the credential: any path on these hosts is a secret.
_SECRET_PATHS = re.compile(
    r"hooks\.slack(-gov)?\.com|(\w+\.)?discord(app)?\.com|hooks\.zapier\.com|api\.telegram\.org"
    r"|outlook\.office(365)?\.com|[\w.-]+\.webhook\.office\.com|[\w.-]+\.logic\.azure\.com"
    r"|[\w.-]+\.powerplatform\.com|chat\.googleapis\.com|maker\.ifttt\.com|ntfy\.sh|hc-ping\.com"
    r"|[\w.-]+\.make\.com|webhook\.site|open\.(feishu|larksuite)\.\w+|oapi\.dingtalk\.com"
    r"|qyapi\.weixin\.qq\.com|api\.pushover\.net|api\.day\.app|uptime\.betterstack\.com"
)
_SECRET_KEYS = re.compile(
    r"(?i).*(token|secret|passw|auth|signature|api.?key|access.?key).*|key|sig|pw"
)
_VERSION = re.compile(r"v\d+((alpha|beta|rc)\d+)?")
_URL = re.compile(r"https?://[^\s'\"<>]+")
_MAX_WORD = 20


def bare_secrets(text: str) -> Iterator[str]:
    """Messages about URLs in a text that seem to contain a secret; they do not quote the secret.

    References such as ``${NAME}`` are not secrets.
    """
    for found in _URL.findall(text):
        try:
            place = urlsplit(REFERENCE.sub("", found))
        except ValueError:
            continue
        host = place.hostname or ""
        named = REFERENCE.search(found) is not None
        if _SECRET_PATHS.fullmatch(host):
            if not named and place.path.strip("/"):
                yield f"the path of a URL of {host} is a secret"
        elif any(map(_looks_random, place.path.split("/"))):
            yield f"a part of the path looks like a secret of {host}"
        elif any(map(_is_secret_value, place.query.split("&"))):
            yield f"a value after the ? looks like a secret of {host}"


def _is_secret_value(pair: str) -> bool:
    name, _, value = pair.partition("=")
    return bool(value and _SECRET_KEYS.fullmatch(name)) or _looks_random(value or name)


def _looks_random(part: str) -> bool:
    """Whether a part of a URL is unlike the words, numbers and versions that people choose."""
    words = re.split(r"[^A-Za-z0-9]+", unquote(part))
    return any(map(_is_random, words))


def _is_random(word: str) -> bool:
    if len(word) >= _MAX_WORD:
        return True
    if len(word) < 8 or _VERSION.fullmatch(word):
        return False
    # Words such as camelCaseNames have long runs of one kind of character, random ones do not.
    changes = len(re.findall(r"(?<=\d)[A-Za-z]|(?<=[A-Za-z])\d", word))
    humps = len(re.findall(r"[a-z][A-Z]", word))
    return changes >= 2 or (humps >= 3 and len(word) < 5 * humps)
