"""Addresses of stores: a folder, or `s3://` and `gs://` with a bucket. Never with credentials."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote

from zoo_ray.errors import UserError

QUERY_KEYS = {
    "s3": ("endpoint_override", "region", "scheme"),
    "gs": ("endpoint_override", "scheme"),
}
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
"""The environment variables that hold them, by scheme."""


@dataclass(frozen=True)
class Address:
    """Where a store is.

    Attributes:
        text: the address to hand on: a folder's absolute path, or the URL as it was given.
        shown: the same for people, without a URL's query; paths in the store can be appended.
        scheme: the kind of store.
        bucket: of an object store.
        prefix: within the bucket, or empty.
        endpoint: URL of the server, if it is not the cloud's own.
        region: of the bucket, if given.
    """

    text: str
    shown: str
    scheme: Literal["file", "s3", "gs"] = "file"
    bucket: str = ""
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None


def is_remote(path: str) -> bool:
    """Whether it is an address rather than a path."""
    return "://" in path


def parse_address(text: str, *, key: str = "store") -> Address:
    """Read the address of a store, or of data.

    Args:
        text: a folder; or, as pyarrow reads them, `s3://bucket/prefix` or `gs://bucket/prefix`,
            with `?endpoint_override=HOST:PORT&scheme=http` for another server.
        key: what errors call it.

    Raises:
        UserError: it is none, or it holds credentials (which the error does not repeat).
    """
    url = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if url is None:
        return _folder(text, key)
    scheme = url[1].lower()
    if scheme not in ("s3", "gs"):
        raise UserError(
            f"{key} = '{scheme}://...': no such kind of store; give a folder, s3://BUCKET/PREFIX "
            "or gs://BUCKET/PREFIX"
        )
    return _bucket(text, "s3" if scheme == "s3" else "gs", text[url.end() :], key)


def expanded(path: str, shown: str) -> Path:
    """A path whose `~` is a home folder.

    Raises:
        UserError: there is none of this user; `shown` says where the path was given.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{shown}: {error}; write the path out in full") from None


def _folder(text: str, key: str) -> Address:
    if "\0" in text:
        raise UserError(f"{key} = {text!r}: a path holds no null characters")
    # Workers run in other folders: the address they are given must not depend on the folder.
    try:
        path = str(Path(text).expanduser().absolute())
        path.encode()
    except (RuntimeError, UnicodeEncodeError) as error:
        raise UserError(f"{key} = {text!r}: not a path ({error})") from None
    return Address(text=path, shown=path)


def _bucket(text: str, scheme: Literal["s3", "gs"], rest: str, key: str) -> Address:
    location, _, query = rest.partition("?")
    bucket, _, path = location.partition("/")
    options = parse_qsl(query, keep_blank_values=True)
    # A secret may hold a slash, and then looks like a part of the path.
    if re.search("[:@]", bucket) or any(
        _is_secret(name) or "@" in value for name, value in options
    ):
        raise UserError(
            f"{key} = '{scheme}://...': an address holds no credentials, for it is written into "
            f"records and logs; set {CREDENTIALS[scheme]} in the environment"
        )
    prefix = unquote(path).strip("/")
    where = f"{key} = {f'{scheme}://{bucket}/{prefix}'!r}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}", bucket):
        raise UserError(f"{where}: no bucket's name; expected {scheme}://BUCKET/PREFIX")
    parts = prefix.split("/") if prefix else []
    if any(not part.isprintable() or part in {"", ".", ".."} or "\\" in part for part in parts):
        raise UserError(f"{where}: a prefix is made of printable names between slashes")
    values = dict(options)
    allowed = QUERY_KEYS[scheme]
    for option, pattern in (
        ("endpoint_override", r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?"),
        ("scheme", "https?"),
        ("region", "[A-Za-z0-9-]+"),
    ):
        if option in values and not re.fullmatch(pattern, values[option]):
            raise UserError(
                f"{where}: ?{option}= is not right; as in ?endpoint_override=127.0.0.1:9000"
                "&scheme=http&region=us-east-1"
            )
    if len(values) < len(options) or not set(values) <= set(allowed):
        raise UserError(f"{where}: after the ? are allowed, once each: {', '.join(allowed)}")
    endpoint = values.get("endpoint_override")
    return Address(
        text=text,
        shown=f"{scheme}://{bucket}/{prefix}".rstrip("/"),
        scheme=scheme,
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint and f"{values.get('scheme', 'https')}://{endpoint}",
        region=values.get("region"),
    )


def _is_secret(name: str) -> bool:
    return bool(re.search("key|secret|token|passw|credential|signature|user", name, re.IGNORECASE))
