"""Stores that are away for a while, or for good, or that say no."""

import errno
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from zoo_ray.address import parse_address
from zoo_ray.errors import UserError
from zoo_ray.store import Store, objects
from zoo_ray.store.opening import open_files
from zoo_ray.store.retry import Trouble, persist


class Flaky:
    """Fails with each of some errors, then succeeds."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def __call__(self):
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def diagnose(error):
    return Trouble(str(error), isinstance(error, ConnectionError), "ask") if error.args else None


def tried(action, patience_s=60.0):
    return persist(action, what="store x: cannot y", diagnose=diagnose, patience_s=patience_s)


def test_what_may_pass_is_tried_again_and_told_once(caplog):
    assert tried(Flaky(ConnectionError("away"), ConnectionError("away"))) == "done"
    assert caplog.messages == ["store x: cannot y (away); trying again for 60 s"]


def test_what_cannot_pass_is_not_tried_again():
    flaky = Flaky(PermissionError("no"))
    with pytest.raises(UserError, match=r"^store x: cannot y \(no\); ask$"):
        tried(flaky)
    assert tried(flaky) == "done"


def test_what_is_not_the_stores_comes_out_as_it_is():
    with pytest.raises(KeyError):
        tried(Flaky(KeyError()))


def test_patience_ends():
    started = time.monotonic()
    with pytest.raises(UserError, match=r"tried for 0.3 s\); once the store is back, the same com"):
        tried(Flaky(*[ConnectionError("away")] * 1000), patience_s=0.3)
    assert 0.3 <= time.monotonic() - started < 2


def test_a_shared_folder_that_blinks_is_read_all_the_same(tmp_path, monkeypatch):
    files = open_files(parse_address(str(tmp_path)), patience_s=60)
    files.replace("runs/a", b"x")
    blinks = [OSError(errno.ESTALE, "Stale file handle"), OSError(errno.EIO, "Input/output error")]

    def blinking(*arguments):
        if blinks:
            raise blinks.pop()
        return open(*arguments)

    monkeypatch.setattr("zoo_ray.store.local.open", blinking, raising=False)
    assert files.read("runs/a") == b"x"
    assert blinks == []


# ---- a server


@pytest.fixture
def hasty(monkeypatch):
    """Requests without an answer end after a second."""
    monkeypatch.setattr(objects, "ANSWER_S", 1)
    monkeypatch.setattr(objects, "CONNECT_S", 1)


def write_all(files, numbers):
    """Writes of every kind, each harmless to repeat."""
    for number in numbers:
        name = str(number).encode()
        files.replace(f"runs/{number}", name * 1000)
        files.create(f"runs/created {number}", name)
        files.update("runs/list", lambda old, name=name: b" ".join({*(old or b"").split(), name}))


def check_all(files, numbers):
    for number in numbers:
        name = str(number).encode()
        assert files.read(f"runs/{number}") == name * 1000
        assert files.read(f"runs/created {number}") == name
    assert sorted(map(int, files.read("runs/list").split())) == list(numbers)
    assert len(list(files.list("runs"))) == 2 * len(numbers) + 1


@pytest.mark.usefixtures("hasty")
def test_a_server_that_stops_in_the_middle_of_writes_loses_none(s3_server, s3_address):
    files = open_files(parse_address(s3_address), patience_s=60)
    numbers = range(150)
    writer = threading.Thread(target=write_all, args=(files, numbers))
    writer.start()
    time.sleep(0.3)
    s3_server.freeze()
    time.sleep(1.5)
    s3_server.thaw()
    time.sleep(0.3)
    s3_server.kill()
    time.sleep(1)
    assert writer.is_alive()
    s3_server.start()
    writer.join()
    check_all(files, numbers)


@pytest.mark.usefixtures("hasty")
def test_a_server_that_stays_away_is_one_line_that_says_how_to_go_on(s3_server, s3_address):
    store = Store(s3_address, patience_s=1.5)
    s3_server.freeze()
    try:
        for use in (lambda: store.read_run("run"), lambda: store.write_wanted("runs/run", ["x"])):
            with pytest.raises(UserError, match="the same command goes on") as caught:
                use()
            assert str(caught.value).startswith(f"store {store.shown}: cannot ")
            assert "\n" not in str(caught.value)
    finally:
        s3_server.thaw()


@pytest.fixture
def credentials(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")


@pytest.mark.usefixtures("credentials")
def test_nobody_at_the_address_is_one_line():
    store = Store("s3://bucket/x?endpoint_override=127.0.0.1:1&scheme=http", patience_s=0.2)
    with pytest.raises(UserError, match=r"^store s3://bucket/x: cannot list runs \(no answer, tri"):
        store.runs()


class Redirects(BaseHTTPRequestHandler):
    """Answers as S3 does where a bucket is in another region."""

    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(301)
        self.send_header("x-amz-bucket-region", "eu-west-1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.usefixtures("credentials")
def test_a_bucket_in_another_region_is_said_at_once():
    with HTTPServer(("127.0.0.1", 0), Redirects) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"127.0.0.1:{server.server_port}"
        store = Store(f"s3://bucket/x?endpoint_override={at}&scheme=http", patience_s=60)
        uses = (
            store.runs,
            lambda: store.read_run("run"),
            lambda: store.write_wanted("runs/run", ["x"]),
            lambda: store.files.delete("runs/a"),
        )
        for use in uses:
            with pytest.raises(UserError, match=r"\(a redirect\); the bucket .* \?region=REGION"):
                use()
        server.shutdown()


def test_a_bucket_that_is_not_there_is_said_at_once(s3_server):
    store = Store(s3_server.address("x", bucket="nonesuch"))
    for use in (store.runs, lambda: store.read_run("run"), lambda: store.clear_wanted("runs/run")):
        with pytest.raises(UserError, match=r"NoSuchBucket\); there is no such bucket; create it"):
            use()


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_said_at_once_and_not_shown(
    s3_address, monkeypatch, variable, caplog
):
    monkeypatch.setenv(variable, "WRONGWRONGWRONG")
    store = Store(s3_address)
    uses = (
        store.runs,
        lambda: store.read_run("run"),
        lambda: store.write_wanted("runs/run", ["x"]),
        lambda: store.files.create("runs/a", b"x"),
        lambda: store.files.delete("runs/a"),
    )
    for use in uses:
        with pytest.raises(UserError, match=r"403 .*check AWS_ACCESS_KEY_ID and AWS_SEC") as caught:
            use()
        said = f"{caught.value} {caplog.text} {caught.value.__cause__}"
        for secret in ("WRONG", "AKIA", "Signature=", "<Error>", "RequestId"):
            assert secret not in said


def test_credentials_that_are_half_there_are_named(s3_address, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in"):
        Store(s3_address).runs()


def test_the_endpoint_may_come_from_the_environment(s3_server, s3_address, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server.endpoint}")
    store = Store(s3_address.partition("?")[0])
    store.write_wanted("runs/run", ["x"])
    assert Store(s3_address).read_wanted("runs/run") == ["x"]


def test_a_signal_is_heard_while_a_server_is_silent(s3_server, s3_address):
    files = open_files(parse_address(s3_address), patience_s=60)
    # What a shell starts in the background ignores it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    s3_server.freeze()
    try:
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            files.read("runs/a")
        assert time.monotonic() - started < 30  # half of its patience
    finally:
        signal.signal(signal.SIGINT, before)
        s3_server.thaw()
