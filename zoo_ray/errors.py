"""The one exception that is meant for people."""

import re


class UserError(Exception):
    """Something outside the program is wrong: a configuration, a file, a machine.

    The message is one line that names the file, the key and the value, what is allowed, and the
    next thing to try. The command line prints it and exits with code 2, without a traceback.
    Credentials in it are masked.
    """

    def __init__(self, message: str) -> None:
        # Paths, class names and library messages may hold line breaks; an error is one line.
        super().__init__(without_credentials(" ".join(message.split())))


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
