"""Who is told, of what, by which way; and that no notifier can do a run any harm."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cluster import api
from cluster.common.errors import EngineError, SpecError, StoreError, UsageError
from cluster.dispatch.events import Alarm, Event, NodeChanged, Progress, Started
from cluster.hosts.process_tree import descendants
from cluster.lifecycle.notify import Notification, SecretError, filled
from cluster.lifecycle.notify import notifier as notifiers
from cluster.report.result import Result
from cluster.spec import Notify, Spec
from tests.cli.shell import ROOT, cluster, environment, wait_for
from tests.cli.shell import spec as written
from tests.conftest import need

SECRET = "s3cret-t0ken"


class Server:
    """A web server on localhost that records what is posted, and answers as it is told to."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.posted: list[tuple[str, Any]] = []
        self.answer: int | str = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posted.append((self.path, json.loads(body)))
                if outer.answer == "hang":
                    outer.over.wait(60)
                    return
                self.send_response(int(outer.answer))
                if outer.answer == 302:
                    self.send_header("Location", f"http://localhost:{outer.port}/elsewhere")
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self.over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            # The handshake is the handler's, so that one who breaks it off holds nobody up.
            listening = self._server.socket
            self._server.socket = tls.wrap_socket(
                listening, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that ends with the test."""
    server = Server()
    yield server
    server.close()


def job(folder: Path, function: str = "quarter", **notify: object) -> Spec:
    """A spec that somebody is told of."""
    return api.load(written(folder, function, backend="serial", notify=notify))


def events(result: Result) -> list[str]:
    """What is recorded of a run's notifications."""
    return [event["text"] for event in result.events if "notified" in event["text"]]


def gone() -> Result:
    """The result of a run that nobody finds any more."""
    raise UsageError("no such run")


def test_a_webhook_gets_the_result(server: Server, tmp_path: Path) -> None:
    """As one JSON object, once; and the ledger says so."""
    spec = job(tmp_path, webhook=f"http://localhost:{server.port}/hook")
    result = api.submit(spec, store=tmp_path / "runs")
    ((path, message),) = server.posted
    assert path == "/hook"
    assert (message["event"], message["state"], message["run"]) == ("done", "done", result.run)
    assert (message["digest"], message["estimate"]) == (result.digest, result.estimate)
    assert message["text"].startswith("quarter: done (samples), 0.2")
    told = [f"notified of done: webhook localhost:{server.port}: HTTP 200"]
    assert events(api.show(result.run, tmp_path / "runs")) == told
    api.resume(result.run, tmp_path / "runs")
    assert len(server.posted) == 1, "a start that had nothing to do is no news"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority of our own, and the key and certificate that it gave localhost."""
    need(shutil.which("openssl"), "openssl (apt install openssl)")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    usage = "keyUsage=critical,keyCertSign"
    openssl(
        "req",
        "-x509",
        *key,
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-days",
        "2",
        "-subj",
        "/CN=authority",
        "-addext",
        usage,
    )
    openssl("req", *key, "-keyout", "key", "-out", "request", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    openssl(
        "x509",
        "-req",
        "-in",
        "request",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-days",
        "2",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "certificate",
    )
    return folder


@pytest.mark.parametrize(
    ("host", "trusted", "words"),
    [
        ("localhost", True, "HTTP 200"),
        ("localhost", False, "CERTIFICATE_VERIFY_FAILED"),
        ("127.0.0.1", True, "IP address mismatch"),
    ],
)
def test_a_webhook_over_tls_goes_to_whom_it_is_meant_for_alone(
    host: str,
    trusted: bool,
    words: str,
    authority: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another authority, and another name, are refused; the run is done, and tells it."""
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
    else:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "certificate", authority / "key")
    server = Server(context)
    try:
        spec = job(tmp_path, webhook=f"https://{host}:{server.port}/hook")
        result = api.submit(spec, store=tmp_path / "runs")
    finally:
        server.close()
    assert (result.state, result.exit_code) == ("done", 0)
    (told,) = events(api.show(result.run, tmp_path / "runs"))
    taken = words == "HTTP 200"
    assert told.startswith("notified of done" if taken else "not notified of done")
    assert words in told
    assert [message["run"] for _, message in server.posted] == ([result.run] if taken else [])


def test_a_command_gets_it_on_its_standard_input(tmp_path: Path) -> None:
    """When the run is free: it may look at it, or go on with it."""
    script = tmp_path / "told.sh"
    script.write_text(
        f'#!/bin/sh\ncat > "{tmp_path}/told"\ncd "{tmp_path}" && flock -n runs/locks/quarter-* '
        f'touch "{tmp_path}/free"\n'
    )
    script.chmod(0o755)
    spec = job(tmp_path, command=[str(script)])
    result = api.submit(spec, store=tmp_path / "runs")
    assert json.loads((tmp_path / "told").read_text())["run"] == result.run
    assert (tmp_path / "free").exists()
    assert events(api.show(result.run, tmp_path / "runs")) == [f"notified of done: {script}"]


@pytest.mark.parametrize(
    ("function", "keys", "event"),
    [
        ("breaks", {}, "failed"),
        (
            "quarter",
            {"samples": None, "until": {"half_width": 1e-9, "max_samples": 1e5}},
            "partial",
        ),
    ],
)
def test_what_is_not_done_is_told_too(
    function: str, keys: dict[str, Any], event: str, server: Server, tmp_path: Path
) -> None:
    """With its state, and the command that goes on; and only what the spec wants told."""
    hook = {"webhook": f"http://localhost:{server.port}/"}
    for on in ([event], ["done", "node_lost"]):
        path = written(tmp_path, function, backend="serial", notify={**hook, "on": on}, **keys)
        api.submit(api.load(path), store=tmp_path / "runs")
    ((_, message),) = server.posted
    assert (message["event"], message["state"]) == (event, event)
    assert "cluster" in message["resume"]


def test_a_start_that_ends_by_an_error_is_a_failure(server: Server, tmp_path: Path) -> None:
    """Nobody may be left to believe that it computes."""
    nodes = [{"host": "localhost", "slots": 1, "python": "/no/python"}]
    hook = {"webhook": f"http://localhost:{server.port}/"}
    path = written(tmp_path, backend="processes", nodes=nodes, notify=hook)
    with pytest.raises(EngineError):
        api.submit(api.load(path), store=tmp_path / "runs")
    ((_, message),) = server.posted
    assert (message["event"], message["error"]["code"]) == ("failed", 69)
    assert "/no/python" in message["text"]


@pytest.mark.parametrize(
    "start", [Started("run", 0, 1, 1, "ssh"), Started("run", 0, None, 0, "ssh", 3, 2)]
)
def test_a_lost_node_is_told_while_the_run_computes(
    start: Event, server: Server, tmp_path: Path
) -> None:
    """Each node once, and not before it was there."""
    notify = Notify(on=("node_lost",), webhook=f"http://localhost:{server.port}/")
    notes: list[str] = []
    told: list[Event] = []
    with Notification("run", "name", notify, notes.append, told.append, gone) as teller:
        teller(start)
        for slots in (0, 2, 0, 2, 0):
            teller(NodeChanged("h2", slots, "its link is gone"))
        wait_for(lambda: server.posted)
    ((_, message),) = server.posted
    assert (message["event"], message["node"]) == ("node_lost", "h2")
    assert message["text"] == "name: lost the node h2: its link is gone, run run"
    assert len(notes) == 1
    assert len(told) == 6


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (500, "HTTP 500"),
        (404, "HTTP 404"),
        (302, "HTTP 302"),
        ("hang", "no answer within 4 s"),
        ("gone", "Connection refused"),
    ],
)
def test_a_webhook_that_fails_or_hangs_does_no_harm(
    answer: int | str, words: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is the same, the ledger says what became of the message, and nothing is left."""
    if answer == "hang":  # within which its process must have started, and posted
        monkeypatch.setattr(notifiers.Notifier.__init__, "__defaults__", (4.0,))
    port = server.port
    server.answer = answer
    if answer == "gone":
        server.close()
    before = descendants(os.getpid())
    spec = job(tmp_path, webhook=f"http://localhost:{port}/")
    begun = time.monotonic()
    result = api.submit(spec, store=tmp_path / "runs")
    assert time.monotonic() - begun < 10
    assert (result.state, result.exit_code) == ("done", 0)
    (told,) = events(api.show(result.run, tmp_path / "runs"))
    assert told.startswith("not notified of done: webhook localhost:")
    assert words in told
    assert [path for path, _ in server.posted] == ([] if answer == "gone" else ["/"])
    assert descendants(os.getpid()) <= before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["/no/such/program"], "/no/such/program: No such file or directory"),
        (["/bin/sh", "-c", "exec sh -c 'exit 7'"], "/bin/sh: exit code 7"),
        (["/bin/sh", "-c", "sleep 60 & sleep 60"], "/bin/sh: no answer within 1 s"),
        (["/bin/sh", "-c", "yes; exit 1"], "/bin/sh: no answer within 1 s"),
        (["/bin/sh", "-c", "trap '' TERM INT; exec sleep 60"], "/bin/sh: no answer within 1 s"),
    ],
)
def test_a_command_that_fails_or_hangs_does_no_harm(
    command: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it forks or prints; its whole group is killed."""
    if "no answer" in words:
        monkeypatch.setattr(notifiers.Notifier.__init__, "__defaults__", (1.0,))
    before = descendants(os.getpid())
    result = api.submit(job(tmp_path, command=command), store=tmp_path / "runs")
    assert result.state == "done"
    assert events(api.show(result.run, tmp_path / "runs")) == [f"not notified of done: {words}"]
    assert descendants(os.getpid()) <= before


def test_a_hanging_notifier_does_not_hold_up_the_run(server: Server, tmp_path: Path) -> None:
    """What is told while it computes is not waited for then; too many at once are not sent."""
    server.answer = "hang"
    notify = Notify(on=("node_lost",), webhook=f"http://localhost:{server.port}/")
    notes: list[str] = []
    teller = Notification("run", "name", notify, notes.append, lambda _event: None, gone)
    teller(Started("run", 0, 1, 1, "ssh"))
    begun = time.monotonic()
    for number in range(12):
        teller(NodeChanged(f"h{number}", 1, "ready"))
        teller(NodeChanged(f"h{number}", 0, "lost"))
        teller(Progress(0.0, 0, 1, 0, 0.0, None, ()))
    assert time.monotonic() - begun < 10
    assert [note for note in notes if "8 messages are on their way" in note] == notes[:4]
    server.over.set()
    teller.__exit__(None, None, None)
    assert len(notes) == 12


@pytest.mark.fault(93)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_a_secret_is_nowhere_but_where_it_belongs(
    place: str, server: Server, tmp_path: Path
) -> None:
    """It reaches the server, and is not in the store, the log, the document or any argv."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o600)
    reference = "${HOOK}" if place == "environment" else f"${{file:{file}}}"
    hook = f"http://localhost:{server.port}/services/{reference}"
    path = written(tmp_path, backend="serial", notify={"webhook": hook})
    server.answer = 500
    env = environment(PYTHONPATH=str(ROOT), HOOK=SECRET)
    process = cluster("submit", path, "--detach", "--json", cwd=tmp_path, env=env)
    run = json.loads(process.stdout)["run"]
    wait_for(lambda: "not notified" in json.dumps(api.show(run, tmp_path / "runs").events))
    assert server.posted[0][0] == f"/services/{SECRET}"
    shown = cluster("show", run, "--json", cwd=tmp_path)
    assert "HTTP 500" in shown.stdout
    assert SECRET not in process.stdout + process.stderr + shown.stdout
    for kept in (tmp_path / "runs").rglob("*"):
        assert kept.is_dir() or SECRET.encode() not in kept.read_bytes(), kept


def test_a_missing_secret_is_told_when_the_run_starts(tmp_path: Path) -> None:
    """While somebody looks; the run is computed all the same."""
    told: list[Event] = []
    spec = job(tmp_path, webhook="https://hooks.example.org/${NO_SUCH_HOOK}")
    result = api.submit(spec, store=tmp_path / "runs", observe=told.append)
    assert result.state == "done"
    (alarm,) = (event for event in told if isinstance(event, Alarm))
    assert "the environment has no NO_SUCH_HOOK" in alarm.message
    assert alarm.message in [event["text"] for event in result.events]


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [
        (0o640, SECRET, "is not yours alone (chmod 600"),
        (0o604, SECRET, "is not yours alone"),
        (0o600, "", "holds no secret"),
        (0o600, "two\nlines", "holds no secret"),
        (None, "", "No such file"),
    ],
)
def test_a_file_that_others_can_read_holds_no_secret(
    mode: int | None, text: str, words: str, tmp_path: Path
) -> None:
    """Nor does an empty one; the message has the cure, and not the secret."""
    file = tmp_path / "secret"
    if mode is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(SecretError) as caught:
        filled(f"https://h/${{file:{file}}}", {})
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


def test_what_is_filled_in_is_masked(tmp_path: Path) -> None:
    """In words and in its own form."""
    made = filled("https://h/${A}/${AB}", {"A": "abc", "AB": "abcdef"})
    assert made.text == "https://h/abc/abcdef"
    assert made.masked("sent to https://h/abc/abcdef") == "sent to https://h/***/***"
    assert "abc" not in repr(made)


@pytest.mark.parametrize("before", [notifiers._MOST_WORDS - 4, 10])
def test_a_secret_at_the_end_of_what_is_kept_is_masked_too(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words are cut when no secret is among them any more."""
    monkeypatch.setenv("HOOK", SECRET)
    notes: list[str] = []
    notifier = notifiers.Notifier(Notify(on=("done",), webhook="https://h/${HOOK}"), notes.append)
    assert notifier.prepare() is None
    said = f"print('x' * {before} + {SECRET!r} + 'y' * 400)"
    monkeypatch.setattr(notifiers, "python_command", lambda python, _module: [python, "-c", said])
    notifier.send({"event": "done"})
    notifier.finish()
    (note,) = notes
    assert "x***"[: 2 if before > 10 else 4] in note
    assert SECRET[:4] not in note
    assert len(note) < notifiers._MOST_WORDS + 50


@pytest.mark.parametrize(
    ("notify", "words"),
    [
        ("{webhook: http://hooks.example.org/x}", "must begin with https://"),
        ("{webhook: http://localhost.example.org/x}", "must begin with https://"),
        ("{webhook: ftp://localhost/x}", "must be a URL"),
        ("{webhook: https://user:pass@host/x}", "must be a URL"),
        ("{webhook: 'https://${HOST}/x'}", "must be a URL"),
        ("{webhook: ''}", "not empty"),
        ("{webhook: 'https://host/${TOKEN'}", "a secret is written as"),
        ("{webhook: 'https://host/${file:here}'}", "a secret is written as"),
        ("{webhook: https://host/$TOKEN}", "is written as ${NAME} or ${file:/path}"),
        ("{webhook: 'https://host/x?$top=1'}", "a literal $ is written as %24"),
        ("{on: [done]}", "names no recipient"),
        ("{on: [], command: [a]}", "names no event"),
        ("{command: mail me}", "must be a list of arguments"),
        ("{command: []}", "must be a list of arguments"),
        ("{command: [mail, 3]}", "must be a list of arguments"),
        ("{command: [mail, '${TOKEN}']}", "is visible to every user"),
        ("{on: [dome], command: [a]}", "did you mean 'done'"),
        ("{webhok: https://h/}", "did you mean 'webhook'"),
    ],
)
def test_what_is_wrong_with_notify_is_told(notify: str, words: str, tmp_path: Path) -> None:
    """With its place."""
    path = tmp_path / "bad.yaml"
    path.write_text(f"kernel: kernel.py:f\nsamples: 10\nnotify: {notify}\n")
    with pytest.raises(SpecError) as caught:
        api.load(path)
    assert all(problem.path.startswith("notify") for problem in caught.value.problems)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://hooks.slack.com/services/T00/B00/abc",
        "https://discord.com/api/webhooks/1/abc",
        "https://ntfy.sh/words",
        "https://h.example.org/hooks/8h1qtdkr8jnizc7tbnrk5awqxr",
        "https://h.example.org/hooks/550e8400-e29b-41d4-a716-446655440000",
        "https://h.example.org/hooks/qkXbRtYwZs",
        "https://h.example.org/hooks/%71k8b3t9w",
        "https://h.example.org/${NAME}/8h1qtdkr8jnizc7tbnrk5awqxr",
        "https://h.example.org/hook?token=abc",
        "https://h.example.org/hook?x=8h1qtdkr8jnizc7tbnrk5awqxr",
        "http://localhost:8080/hooks/8h1qtdkr8jnizc7tbnrk5awqxr",
    ],
)
@pytest.mark.parametrize("how", ["webhook", "command", "set"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(
    how: str, address: str, tmp_path: Path
) -> None:
    """It would lie in the ledger for all who may read that; the cure is told with the place."""
    given = {"command": ["curl", address]} if how == "command" else {"webhook": address}
    if "${" in address and how == "command":
        given = {"command": ["curl", address.replace("${NAME}", "x")]}
    keys: dict[str, Any] = {} if how == "set" else {"notify": given}
    path = written(tmp_path, **keys)
    overrides = [f"notify.webhook={address}"] if how == "set" else []
    with pytest.raises(SpecError) as caught:
        api.load(path, overrides)
    (problem,) = caught.value.problems
    assert problem.path.startswith("notify.")
    assert "secret" in problem.message
    assert address.rpartition("/")[2] not in str(problem)


@pytest.mark.parametrize(
    "address",
    [
        "https://hooks.slack.com/${HOOK}",
        "https://hooks.slack.com/services/T0ABCDEF12/B0ABCDEF12/${HOOK}",
        "https://chat.example.org/hooks/nightly-runs-of-the-group?channel=montecarlo",
        "https://h.example.org/api/v1beta1/namespaces/physics2024/notifyWhenRunEnds",
        "https://h.example.org/hook?token=${HOOK}",
        "https://h.example.org",
        "http://localhost:8080/hook/20261124-1",
    ],
)
def test_an_address_of_words_is_no_secret(address: str, tmp_path: Path) -> None:
    """Nor is one that names where its secret is."""
    spec = api.load(written(tmp_path, notify={"webhook": address}))
    assert spec.notify
    assert spec.notify.webhook == address


def test_a_run_that_was_recorded_with_a_secret_still_goes_on(tmp_path: Path) -> None:
    """Older versions took it; refusing it now would only take the run away."""
    spec = api.load(written(tmp_path, notify={"webhook": "https://h.example.org/hook"}))
    recorded = spec.to_json()
    recorded["notify"]["webhook"] = "https://ntfy.sh/words"
    assert Spec.from_json(recorded).notify


def test_a_scheduled_start_has_no_variables(tmp_path: Path) -> None:
    """A secret in the environment is refused in the evening, with where to put it."""
    path = written(tmp_path, notify={"webhook": "https://h.example.org/${HOOK}"})
    env = environment(PYTHONPATH=str(ROOT), HOOK=SECRET)
    words = ["schedule", path, "--cron", "@daily", "--print"]
    done = cluster(*words, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "${file:/path}" in done.stderr


def test_a_notifier_that_cannot_be_killed_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that sudo made another user's, or that waits for a dead disk."""
    notes: list[str] = []
    notify = Notify(on=("done",), command=("sleep", "60"))
    notifier = notifiers.Notifier(notify, notes.append, deadline=0.1)
    monkeypatch.setattr(notifiers, "_ENDING", 0.2)

    def refuse(_group: int, _number: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(os, "killpg", refuse)
        notifier.send({"event": "done"})
        (sent,) = notifier._sent
        begun = time.monotonic()
        notifier.finish()
        assert time.monotonic() - begun < 5
    sent.kill()
    assert notes == ["not notified of done: sleep: no answer within 0.1 s"]


def test_a_store_that_fails_before_the_run_begins_is_told_by_webhook(
    server: Server, tmp_path: Path
) -> None:
    """The secrets were not looked for yet."""
    spec = job(tmp_path, webhook=f"http://localhost:{server.port}/hook")
    api.submit(spec, store=tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs" / "locks")
    (tmp_path / "runs" / "locks").touch()
    with pytest.raises(StoreError):
        api.submit(spec, store=tmp_path / "runs")
    assert [message["event"] for _, message in server.posted] == ["done", "failed"]


def test_a_pipe_holds_no_secret(tmp_path: Path) -> None:
    """Nobody may ever write to it, and the run must not wait for that."""
    os.mkfifo(tmp_path / "secret", 0o600)
    with pytest.raises(SecretError, match="no plain file"):
        filled(f"https://host/${{file:{tmp_path}/secret}}", {})
