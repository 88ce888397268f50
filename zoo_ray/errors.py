"""The one exception that is meant for people."""

import re

_MOST = 1000  # characters


class UserError(Exception):
    """Something outside the program is wrong: a configuration, a file, a machine.

    The message is one line that names the file, the key and the value, what is allowed, and the
    next thing to try. The command line prints it and exits with code 2, without a traceback.
    Credentials in it are masked.
    """

    def __init__(self, message: str) -> None:
        # Paths, class names and library messages may hold line breaks, and worse for a terminal.
        line = without_credentials(" ".join(message.split()))
        line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
        # What is wrong comes first and the next thing to try last; a long value is in between.
        super().__init__(line if len(line) <= _MOST else f"{line[:600]} ... {line[-300:]}")


_IN_URL = re.compile(
    # A secret may hold a slash; then there was a colon before it.
    r"""(\b[A-Za-z][\w+.-]{0,30}://)(?:[^\s/'"@]*:[^\s'"]*|[^\s/'"@]*)@"""
    # `s3://bucket: what is wrong with it` holds none.
    r"""|(\b(?:s3|gs)://)[^\s/'"@]*:[^\s'"]+"""
    r"""|(=)[^\s/'"=&@]+:[^\s'"&@]+@"""
)
_NAMED = re.compile(
    r"""(?P<name>(?:secret|passw|token|access.{0,3}key|credential|signature)[\w.%-]*)"""
    r"""(?P<sign>['"]?\s*(?:=+|:)\s*['"]?)(?P<value>[^\s'"&,}]+)""",
    re.IGNORECASE,
)
_A_PATH = re.compile(r"/|\.(?:ya?ml|json|py|npz|parquet|csv|log|txt|html|png)$", re.IGNORECASE)
_LIKE_A_SECRET = re.compile(r"(?=[\w+/=~-]*\d)(?=[\w+/=~-]*[A-Za-z])[\w+/=~-]{12}")


def without_credentials(text: str) -> str:
    """The text with what may be credentials (in URLs, or after names like them) masked."""
    text = _IN_URL.sub(lambda found: f"{found[1] or found[2] or found[3]}***", text)
    kept, done = [], 0
    while found := _NAMED.search(text, done):
        masked = _is_secret(found)
        kept += [text[done : found.start("value")], "***" if masked else ""]
        # What is no value may be the name of one.
        done = found.end("value") if masked else found.start("value")
    return "".join(kept) + text[done:]


def _is_secret(found: re.Match[str]) -> bool:
    """Whether what follows a name like a credential's is one, or may be."""
    before = found.string[max(0, found.start() - 200) : found.start()]
    name = re.split(r"[^\w.%/~-]", before)[-1] + found["name"]
    looks = _LIKE_A_SECRET.match(found["value"]) is not None
    if "network_arguments." in name:  # a number of tokens, not a token
        return looks
    if "=" in found["sign"]:
        return True
    is_prose = found["sign"][-1].isspace()  # `name: value`, neither the value in quotes
    if _A_PATH.search(name):
        return looks and not is_prose
    is_named_so = found["name"].lower().startswith(("secret", "passw"))
    return looks or is_named_so or not is_prose or found["sign"][0] in "'\""
