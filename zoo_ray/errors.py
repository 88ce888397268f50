"""The one exception that is meant for people."""

_MOST = 1000  # characters


class UserError(Exception):
    """Something outside the program is wrong: a configuration, a file, a machine.

    The message is one line that names the file, the key and the value, what is allowed, and the
    next thing to try. The command line prints it and exits with code 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        # Paths, class names and library messages may hold line breaks, and worse for a terminal.
        line = " ".join(message.split())
        line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)
        # What is wrong comes first and the next thing to try last; a long value is in between.
        super().__init__(line if len(line) <= _MOST else f"{line[:600]} ... {line[-300:]}")
