"""The one exception that is meant for people."""


class UserError(Exception):
    """Something outside the program is wrong: a configuration, a file, a machine.

    The message is one line that names the file, the key and the value, what is allowed, and the
    next thing to try. The command line prints it and exits with code 2, without a traceback.
    """

    def __init__(self, message: str) -> None:
        # Paths, class names and library messages may hold line breaks; an error is one line.
        super().__init__(" ".join(message.split()))
