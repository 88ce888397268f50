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
    r"""(\b[A-Za-z][\w+.-]*://)(?:[^\s/'"@]*:[^\s'"]*|[^\s/'"@]*)@"""
    r"""|(\b(?:s3|gs)://)[^\s/'"@]*:[^\s'"]*"""
    r"""|(=)[^\s/'"=&@]+:[^\s'"&@]+@"""
)
_NAMED = re.compile(
    r"""([\w.%-]*(?:secret|passw|token|access.{0,3}key|credential|signature)[\w.%-]*"""
    r"""['"]?\s*[=:]\s*['"]?)[^\s'"&,}]+""",
    re.IGNORECASE,
)


def without_credentials(text: str) -> str:
    """The text with what may be credentials (in URLs, or after names like them) masked."""
    text = _IN_URL.sub(lambda found: f"{found[1] or found[2] or found[3]}***", text)
    return _NAMED.sub(r"\1***", text)
