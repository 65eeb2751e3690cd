"""The door of the kit: who knows the secret gets in, whatever others do there."""

from __future__ import annotations

import gc
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from typing import Any

import pytest

from cluster.backends import tcp
from cluster.backends.kit import door
from cluster.backends.kit import identity as identities
from cluster.backends.kit.identity import derived, identity

# A caller has no close: what it has ends when nobody has it any more.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SECRET, OTHER = "a" * 64, "b" * 64
NOISE = (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", os.urandom(4096), b"\0\0\0\2[]")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test leaves to the collector is collected within it."""
    yield
    gc.collect()


@pytest.fixture
def place() -> dict[str, Any]:
    """A server of plain sockets that answers a text by the same, reversed."""
    announced: SimpleQueue[Any] = SimpleQueue()
    first = {"address": "127.0.0.1", "secret": SECRET}
    arguments = (lambda text: text[::-1], first, announced.put)
    threading.Thread(target=tcp.serve, args=arguments, daemon=True).start()
    return {**first, **announced.get(timeout=10), "patience": 5.0}


def test_both_ends_answer_each_other(place: dict[str, Any]) -> None:
    """Several calls over one connection, an empty and a long one among them."""
    call = tcp.dial(place)
    for text in ("abc", "", "é\n" * 300_000):
        assert call(text) == text[::-1]


def test_who_has_another_secret_is_refused_by_both_ends(place: dict[str, Any]) -> None:
    """A caller accepts no such server, and a server that was fooled no such caller."""
    with pytest.raises(ssl.SSLCertVerificationError):
        door.connect({**place, "secret": OTHER})
    other = identity(derived(OTHER, "door"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for certificate in ("", other.key + other.certificate):
        if certificate:
            _load(context, certificate)
        with pytest.raises(OSError):  # noqa: PT011 - how it is told differs
            _tried(context, place)
    assert tcp.dial(place)("abc") == "cba"


def _tried(context: ssl.SSLContext, place: dict[str, Any]) -> None:
    """Ask a server with a proof of one's own; raises OSError where it hangs up."""
    with (
        socket.create_connection((place["address"], place["port"]), 5) as plain,
        context.wrap_socket(plain) as sealed,
    ):
        sealed.sendall(b"\0\0\0\1x")
        if not sealed.recv(1):
            raise ConnectionResetError


def _load(context: ssl.SSLContext, text: str) -> None:
    with open(os.memfd_create("test"), "w") as memory:
        memory.write(text)
        memory.flush()
        context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")


def test_strangers_who_are_silent_noisy_and_many_make_nobody_deaf(place: dict[str, Any]) -> None:
    """150 silent connections and some noise: a caller is answered at once, also one of before."""
    before = tcp.dial(place)
    with ExitStack() as strangers:
        for number in range(150):
            stranger = socket.create_connection((place["address"], place["port"]), 5)
            strangers.enter_context(stranger)
            with suppress(OSError):
                stranger.sendall(NOISE[number % 4] if number % 3 == 0 else b"")
        begun = time.monotonic()
        assert tcp.dial(place)("abc") == "cba"
        assert before("xyz") == "zyx"
        assert time.monotonic() - begun < 3


def test_callers_that_shake_no_hands_are_few_and_end(
    place: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many takes the place of the oldest; the others are ended after a while."""
    monkeypatch.setattr(door, "HANDSHAKE", 0.5)
    with ExitStack() as strangers:
        silent = [
            strangers.enter_context(socket.create_connection((place["address"], place["port"]), 5))
            for _ in range(140)
        ]
        for stranger in silent[:5]:
            assert _is_ended(stranger, 3)
        for stranger in silent[-5:]:
            assert _is_ended(stranger, 5)


def test_a_door_without_a_seal_lets_in_everybody_and_one_with_it_nobody_else() -> None:
    """The same door serves plain callers: those of stock nodes on a trusted network."""
    for sealed, answer in ((None, b"in"), (door.context(ssl.PROTOCOL_TLS_SERVER, bytes(32)), b"")):
        made = door.Door("127.0.0.1", 0, sealed)
        made.open(lambda connection: connection.sendall(b"in"))
        with socket.create_connection(("127.0.0.1", made.port), 5) as caller:
            caller.sendall(NOISE[0])
            with suppress(ConnectionResetError):
                # Whoever makes noise in place of a handshake is told so by TLS, and hung up on.
                assert caller.recv(2) in (answer, b"\x15\x03")


def _is_ended(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    with suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


@pytest.mark.parametrize(
    ("seed", "public", "message", "signature"),
    [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            (
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
                "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
            ),
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            (
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
                "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
            ),
        ),
    ],
)
def test_keys_and_signatures_are_those_of_ed25519(
    seed: str, public: str, message: str, signature: str
) -> None:
    """The first two test vectors of RFC 8032, 7.1."""
    found = identities.public_key(bytes.fromhex(seed))
    assert found.hex() == public
    signed = identities.signature(bytes.fromhex(seed), found, bytes.fromhex(message))
    assert signed.hex() == signature


def test_the_certificate_is_the_one_that_others_make() -> None:
    """As the package cryptography 50 makes it of the same seed, byte for byte."""
    made = "".join(identity(bytes(range(32))))
    assert (
        hashlib.sha256(made.encode()).hexdigest()
        == "373c668b7c30456417328d170616e876693a89446434fe8f4183a32e54cc3fc6"
    )


def test_a_secret_has_other_bytes_for_each_purpose() -> None:
    """What is shown of one engine's proof says nothing of another's."""
    values = {derived(s, p) for s in (SECRET, OTHER) for p in ("door", "zeromq server", "")}
    assert len(values) == 6
