"""The errors that a user can mend."""

import re

_PASSWORD = re.compile(r"(?<=://)([^/@\s]*):[^/@\s]*@")


def without_passwords(text: str) -> str:
    """The text with the passwords of URLs replaced, as in ``postgresql://user:***@host``."""
    return _PASSWORD.sub(r"\1:***@", text)


class UserError(Exception):
    """Something outside the code is wrong; the message names it and the remedy, and is printed alone."""

    def __init__(self, message: str) -> None:
        super().__init__(without_passwords(message))
