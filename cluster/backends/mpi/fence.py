"""Runs a command so that it and all its descendants listen on one address only.

Launchers and MPI libraries bind their sockets to every address of the machine, and have no setting
against it. Here the kernel suspends each ``bind`` and asks this process (seccomp user notification,
which needs no privileges): an address of our choice replaces "every address".
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
# The address of a world without hosts elsewhere.
LOOPBACK = "127.0.0.1"
_INTERFACE_ADDRESS = 0x8915  # SIOCGIFADDR


class _Calls(NamedTuple):
    """An architecture's audit number, and the numbers of its system calls."""

    audit: int
    bind: int
    seccomp: int


_CALLS = {
    "x86_64": _Calls(0xC000003E, 49, 317),
    "aarch64": _Calls(0xC00000B7, 200, 277),
}
_PIDFD_GETFD = 438
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_SET_FILTER, _NEW_LISTENER = 1, 1 << 3  # SECCOMP_SET_MODE_FILTER, ..._FLAG_NEW_LISTENER
# Verdicts of a filter (RET_ALLOW, RET_USER_NOTIF), and its BPF instructions.
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
# The listener's ioctls (NOTIF_RECV, NOTIF_SEND), the size of struct seccomp_notif in bytes, and
# USER_NOTIF_FLAG_CONTINUE: the system call is to go on as it is.
_RECEIVE, _ANSWER, _QUESTION = 0xC0502100, 0xC0182101, 80
_GO_ON = 1


def main() -> None:
    """``fence ADDRESS WORD...``: run the words as a command, and exit as it does."""
    address, *words = sys.argv[1:]
    # If the dispatcher is killed, a world with a hanging rank would not end by itself.
    die_with_parent()
    os.environ[OWN_ADDRESS] = address
    if address != LOOPBACK and (name := interface_of(address)):
        # PRRTE's daemons must look for this machine only where its sockets will listen.
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
    """Whether the guard works for this process: a bind to every address gets only one.

    It is tried rather than assumed, because containers may forbid parts of the mechanism.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        try:
            trial.bind(("", 0))
        except OSError:
            return True
        return bool(trial.getsockname()[0] != "0.0.0.0")


def interface_of(address: str) -> str:
    """The interface of this machine that has an IPv4 address; empty if none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an IPv4 address
                wanted = struct.pack("256s", name.encode())
                found = fcntl.ioctl(any_socket, _INTERFACE_ADDRESS, wanted)
                if socket.inet_ntoa(found[20:24]) == address:
                    return name
    return ""


def _become(words: list[str], to_guard: socket.socket) -> NoReturn:
    """Install the filter for this process and its descendants, and execute the command."""
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
    """Install a filter that suspends every ``bind``; returns the descriptor of its listener.

    Raises:
        OSError: this system or architecture does not support it.
    """
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
    # Both buffers must stay referenced until the system call: only their addresses are passed.
    code = ctypes.create_string_buffer(
        b"".join(struct.pack("HBBI", *each) for each in instructions)
    )
    program = ctypes.create_string_buffer(
        struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    )
    # An unprivileged process may install a filter only if it renounces setuid programs.
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    descriptor: int = libc.syscall(calls.seccomp, _SET_FILTER, _NEW_LISTENER, program)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return descriptor


def _guard(listener: int, child: int, address: str) -> None:
    """Answer the kernel's questions until the command has ended."""
    end = os.pidfd_open(child)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(end, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if end in ready:
            return
        question = bytearray(_QUESTION)
        with suppress(FileNotFoundError):  # the process that asked has ended meanwhile
            fcntl.ioctl(listener, _RECEIVE, question)
            answer = _answer(bytes(question), address)
            fcntl.ioctl(listener, _ANSWER, answer)


def _answer(question: bytes, address: str) -> bytes:
    """The answer to a suspended ``bind``: it goes on, or was done here with another address.

    Done here, on a copy of the descriptor, because the kernel can let a suspended call go on, but
    not with other arguments.
    """
    number, thread = struct.unpack_from("QI", question)
    descriptor, place, size = struct.unpack_from("QQQ", question, 32)
    try:
        here = _instead(_memory(thread, place, min(size, 28)), address)
        if here is None:
            return struct.pack("QqiI", number, 0, 0, _GO_ON)
        theirs = _socket_of(thread, descriptor)
    except OSError as error:
        # Some containers forbid access to other processes. MPI then works without the guard.
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
    """The address and port to bind to instead; None if not every address was asked for.

    Args:
        wanted: the struct sockaddr of the call.
        address: the only address to listen on.
    """
    if len(wanted) < 8:
        return None
    family, port = struct.unpack_from("H", wanted)[0], struct.unpack_from(">H", wanted, 2)[0]
    six = ":" in address
    # A socket of the other family cannot be bound to the address; it gets that family's loopback.
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
    """A copy of another process's socket; both descriptors refer to the same socket.

    Raises:
        OSError: the process has ended, or access to it is not allowed.
    """
    # pidfd_open takes processes, but the question names a thread.
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
