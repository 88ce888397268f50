"""Files in a bucket of S3 (or a server that speaks it) or Google Cloud Storage."""

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import GCSStore, S3Store

from zoo_ray.address import CREDENTIALS, Address
from zoo_ray.errors import UserError
from zoo_ray.store.files import Change, Entry
from zoo_ray.store.retry import StoreFailed, Trouble, persist

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion
    from obstore.store import ClientConfig, GCSConfig, RetryConfig, S3Config

T = TypeVar("T")

CONNECT_S, ANSWER_S, REQUEST_S = 5, 15, 300
"""How long connecting, waiting for the next bytes, and a whole request may take."""


class ObjectFiles:
    """Files as objects below a prefix of a bucket, on obstore.

    `create` and `update` are conditional writes, which the server decides. There is no conditional
    delete: `delete_if` reads, compares and deletes, so a file that is replaced within these few
    milliseconds may be lost.
    """

    def __init__(self, address: Address, *, patience_s: float) -> None:
        self.address = address
        self._patience_s = patience_s
        self._has_answered = False
        try:
            self._bucket = _open(address)
        except (BaseError, OSError, ValueError) as error:  # nothing was asked yet
            raise UserError(
                f"store {address.shown}: cannot be opened ({type(error).__name__}); set "
                f"{CREDENTIALS[address.scheme]} in the environment, or see what is wrong with the "
                f"other variables there named {'AWS' if address.scheme == 's3' else 'GOOGLE'}_..."
            ) from None

    def read(self, path: str) -> bytes | None:
        """See `Files`."""
        return self._read(path)[0]

    def replace(self, path: str, payload: bytes) -> None:
        """See `Files`."""
        self._put(path, payload, mode="overwrite")

    def create(self, path: str, payload: bytes) -> bool:
        """See `Files`."""
        return self._put(path, payload, mode="create")

    def update(self, path: str, change: Change) -> bytes | None:
        """See `Files`."""
        deadline = time.monotonic() + self._patience_s
        while True:
            before, version = self._read(path)
            after = change(before)
            if after is None:
                return before
            if before is not None and not version:
                raise UserError(
                    f"store {self.address.shown}: the server tells no versions of files (ETags), "
                    "without which updates may be lost; give another --store"
                )
            if self._put(path, after, mode=version or "create"):
                return after
            # Another was faster; each time one of all is, so that this ends, unless the server
            # tells other versions than it compares.
            if time.monotonic() > deadline:
                raise StoreFailed(
                    f"store {self.address.shown}: cannot write {path} (each time the server says "
                    "that it has changed since it was read); if nobody else writes there, give "
                    "another --store"
                )
            time.sleep(random.uniform(0, 0.05))

    def delete(self, path: str) -> None:
        """See `Files`."""

        def attempt() -> None:
            try:
                self._bucket.delete(path)
            except FileNotFoundError as error:
                if _error_code(error) == "NoSuchBucket":
                    raise

        self._persist("remove", path, attempt)

    def delete_if(self, path: str, seen: bytes) -> bool:
        """See `Files`."""
        found = self.read(path) == seen
        if found:
            self.delete(path)
        return found

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Files`."""
        # Whole, since a listing that breaks off must begin anew.
        metas = self._persist("list", prefix, lambda: self._bucket.list(prefix).collect())
        return (Entry(meta["path"], meta["size"], meta["last_modified"]) for meta in metas)

    def check_writable(self) -> None:
        """See `Files`: only a write would tell."""

    def leftovers(self) -> Iterator[Entry]:
        """None: what was not written whole is not to be seen."""
        return iter(())

    def _read(self, path: str) -> "tuple[bytes | None, UpdateVersion | None]":
        def attempt() -> "tuple[bytes | None, UpdateVersion | None]":
            try:
                result = self._bucket.get(path)
                meta = result.meta
                version: UpdateVersion = {}
                if meta["e_tag"] is not None:
                    version["e_tag"] = meta["e_tag"]
                if meta["version"] is not None:
                    version["version"] = meta["version"]
                return bytes(result.bytes()), version
            except FileNotFoundError as error:
                if _error_code(error) == "NoSuchBucket":
                    raise
                return None, None

        return self._persist("read", path, attempt)

    def _put(self, path: str, payload: bytes, *, mode: "PutMode") -> bool:
        """Whether the condition held."""

        def attempt() -> bool:
            try:
                self._bucket.put(path, payload, mode=mode)
            except (AlreadyExistsError, PreconditionError) as error:
                if _status(error) == 409:  # not decided yet: another write is under way
                    raise
                return False
            return True

        return self._persist("write", path, attempt)

    def _persist(self, verb: str, path: str, action: Callable[[], T]) -> T:
        result = persist(
            lambda: _interruptibly(action),
            what=f"store {self.address.shown}: cannot {verb} {path}".rstrip(),
            diagnose=lambda error: _diagnose(
                error, self.address.scheme, answered=self._has_answered
            ),
            patience_s=self._patience_s,
        )
        self._has_answered = True
        return result


def _open(address: Address) -> "S3Store | GCSStore":
    # Attempts are ours to repeat: a signal must come through between them.
    once: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=REQUEST_S)}
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=ANSWER_S),
        "timeout": timedelta(seconds=REQUEST_S),
    }
    endpoint = address.endpoint
    if address.scheme == "s3" and endpoint is None:
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is not None and endpoint.lower().startswith("http://"):
        client["allow_http"] = True
    prefix = address.prefix or None
    if address.scheme == "gs":
        google: GCSConfig = {}
        if endpoint is not None:
            google["base_url"] = endpoint
        return GCSStore(
            address.bucket, prefix=prefix, config=google, client_options=client, retry_config=once
        )
    amazon: S3Config = {}
    if endpoint is not None:
        amazon["aws_endpoint_url_s3"] = endpoint
    if address.region is not None:
        amazon["region"] = address.region
    return S3Store(
        address.bucket, prefix=prefix, config=amazon, client_options=client, retry_config=once
    )


def _interruptibly(action: Callable[[], T]) -> T:
    """Run it in a thread: Python hears no signals while a library waits for an answer."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(action())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()


# ---- what errors mean. Their texts hold addresses, and bodies of answers that may repeat access
# keys and signatures: only what is matched here is shown.


def _status(error: Exception) -> int | None:
    found = re.search(r" - Server returned non-2xx status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _error_code(error: Exception) -> str | None:
    body = re.search(r" - Server returned non-2xx status code: .*", str(error), re.DOTALL)
    found = re.search(r"<Code>(\w{1,60})</Code>", body[0]) if body else None
    return found[1] if found else None


_OF_CREDENTIALS = re.compile(
    r"Generic (S3|GCS) error: (Missing|GCP credential error|Error performing token request"
    r"|Error performing \w+ http://(169\.254\.|metadata\.google))"
)


def _diagnose(error: Exception, scheme: str, *, answered: bool) -> Trouble | None:
    if isinstance(error, UserError) or not isinstance(error, (BaseError, OSError, ValueError)):
        return None
    status, code = _status(error), _error_code(error)
    reason = " ".join(str(part) for part in (status, code) if part) or type(error).__name__
    variables = CREDENTIALS[scheme]
    summary = str(error).partition("\n")[0]
    if code == "NoSuchBucket":
        return Trouble(reason, False, "there is no such bucket; create it, or give another --store")
    if _OF_CREDENTIALS.match(summary):
        # Of a store that has answered before, the service that gives credentials is away.
        advice = f"set {variables} in the environment"
        return Trouble("no credentials, or none that can be read", answered, advice)
    denied = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    if denied or status in (401, 403):
        return Trouble(reason, False, f"check {variables}, and what they are allowed to do")
    if isinstance(error, ValueError) or "builder error" in summary:
        return Trouble(reason, False, "the address or the environment (AWS_*, GOOGLE_*) is wrong")
    if "incorrectly configured region" in summary:
        advice = "the bucket is in another region; give ?region=REGION in the store's address"
        return Trouble("a redirect", False, advice)
    if status is None:
        return Trouble("no answer" if "HTTP error" in summary else "a broken answer", True)
    if (status >= 500 and status != 501) or status in (404, 408, 409, 425, 429):
        return Trouble(reason, True)
    return Trouble(reason, False, "the server refuses this; check the address, or give another")
