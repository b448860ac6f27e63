"""The two ways in which the pure core says no.

`Malformed` means that the input is not what the specification's format demands; `Rejected` that it
is well-formed but the rules of the room forbid it. Neither knows of HTTP: callers translate.
"""


class Malformed(Exception):
    """The input breaks a format of the specification; the text says which, naming the field."""


class TooLarge(Malformed):
    """It is malformed only in that it, or a field of it, has too many bytes."""


class Rejected(Exception):
    """The rules forbid it.

    `reason` is one sentence that may be shown to users and administrators.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
