"""Runs a command that, with all that it starts, listens on one address only.

Launchers and MPI libraries bind their sockets to every address of the machine, and no setting of
theirs says otherwise. So the kernel holds each ``bind`` and asks us (seccomp's user notification,
which needs no rights): an address of our choice takes the place of "every address".
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from cluster.hosts.process_tree import die_with_parent

OWN_ADDRESS = "CLUSTER_MPI_ADDRESS"
# The address of a world that has no other host.
LOOPBACK = "127.0.0.1"
_INTERFACE_ADDRESS = 0x8915


class _Calls(NamedTuple):
    """Numbers of an architecture: its own, and those of its system calls."""

    audit: int
    bind: int
    seccomp: int


_CALLS = {
    "x86_64": _Calls(0xC000003E, 49, 317),
    "aarch64": _Calls(0xC00000B7, 200, 277),
}
_PIDFD_GETFD = 438
_NO_NEW_PRIVILEGES = 38
_SET_FILTER, _NEW_LISTENER = 1, 1 << 3
# Verdicts of a filter, and its instructions.
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
# ioctls on the listener; the bytes of a question, and "let it go on" in an answer.
_RECEIVE, _ANSWER, _QUESTION = 0xC0502100, 0xC0182101, 80
_GO_ON = 1


def main() -> None:
    """``fence ADDRESS WORD...``: run the words, and end as they do."""
    address, *words = sys.argv[1:]
    # A world in which one rank hangs does not end by itself when its dispatcher has gone.
    die_with_parent()
    os.environ[OWN_ADDRESS] = address
    if address != LOOPBACK and (name := interface_of(address)):
        os.environ.update({"PRTE_MCA_prte_if_include": name})
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        _become(words, theirs)
    theirs.close()
    with ours:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if descriptors:
        _guard(descriptors[0], child, address)
    _, status = os.waitpid(child, 0)
    sys.exit(
        os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
    )


def is_held() -> bool:
    """Whether this process is in a fence that works: a socket for every address gets one."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        try:
            trial.bind(("", 0))
        except OSError:
            return True
        return bool(trial.getsockname()[0] != "0.0.0.0")


def interface_of(address: str) -> str:
    """The interface of this machine whose IPv4 address that is; empty where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has none
                wanted = struct.pack("256s", name.encode())
                found = fcntl.ioctl(any_socket, _INTERFACE_ADDRESS, wanted)
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return ""


def _become(words: list[str], to_guard: socket.socket) -> NoReturn:
    """Set the filter for this process and all that come of it, and be the command."""
    die_with_parent()
    try:
        listener = _ask_for_binds()
        socket.send_fds(to_guard, [b"+"], [listener])
        os.close(listener)
    except OSError as error:
        _complain(error)
        to_guard.send(b"-")
    to_guard.close()
    try:
        os.execvp(words[0], words)
    except OSError as error:
        sys.stderr.write(f"{words[0]}: {error.strerror}\n")
        os._exit(127)


def _ask_for_binds() -> int:
    """From now on every ``bind`` waits for an answer; the descriptor that asks."""
    calls = _CALLS.get(platform.machine())
    if calls is None:
        raise OSError(f"not done on {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    instructions = (
        (_LOAD, 0, 0, 4),  # the architecture of the caller
        (_EQUAL, 0, 3, calls.audit),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_EQUAL, 0, 1, calls.bind),
        (_RETURN, 0, 0, _ASK),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", *each) for each in instructions)
    )
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    )
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    descriptor: int = libc.syscall(calls.seccomp, _SET_FILTER, _NEW_LISTENER, program)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _guard(listener: int, child: int, address: str) -> None:
    """Answer what is asked, until the command has ended."""
    end = os.pidfd_open(child)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(end, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if end in ready:
            return
        question = bytearray(_QUESTION)
        with suppress(FileNotFoundError):  # who asked has died meanwhile
            fcntl.ioctl(listener, _RECEIVE, question)
            answer = _answer(bytes(question), address)
            fcntl.ioctl(listener, _ANSWER, answer)


def _answer(question: bytes, address: str) -> bytes:
    number, thread = struct.unpack_from("QI", question)
    descriptor, place, size = struct.unpack_from("QQQ", question, 32)
    try:
        here = _instead(_memory(thread, place, min(size, 28)), address)
        if here is None:
            return struct.pack("QqiI", number, 0, 0, _GO_ON)
        theirs = _socket_of(thread, descriptor)
    except OSError as error:
        # Some containers let nobody look at another process: then MPI works all the same.
        _complain(error)
        return struct.pack("QqiI", number, 0, 0, _GO_ON)
    with theirs:
        try:
            theirs.bind(here)
        except OSError as error:
            return struct.pack("QqiI", number, 0, -(error.errno or 1), 0)
    return struct.pack("QqiI", number, 0, 0, 0)


def _complain(error: OSError) -> None:
    sys.stderr.write(f"what MPI opens here cannot be held to one address: {error}\n")


def _instead(wanted: bytes, address: str) -> tuple[str, int] | None:
    """Where a socket is bound that was to be bound to every address; None: it was not."""
    if len(wanted) < 8:
        return None
    family, port = struct.unpack_from("H", wanted)[0], struct.unpack_from(">H", wanted, 2)[0]
    six = ":" in address
    if family == socket.AF_INET and wanted[4:8] == bytes(4):
        return ("127.0.0.1" if six else address), port
    if family == socket.AF_INET6 and wanted[8:24] == bytes(16):
        return (address if six else "::1"), port
    return None


def _memory(thread: int, place: int, size: int) -> bytes:
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(place)
        return memory.read(size)


def _socket_of(thread: int, descriptor: int) -> socket.socket:
    """A socket of another process, which is then that of both."""
    status = Path(f"/proc/{thread}/status").read_text("utf-8", "replace")
    process = int(status.partition("\nTgid:")[2].split(maxsplit=1)[0])
    handle = os.pidfd_open(process)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        copy: int = libc.syscall(_PIDFD_GETFD, handle, descriptor, 0)
    finally:
        os.close(handle)
    if copy < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return socket.socket(fileno=copy)


if __name__ == "__main__":
    main()
