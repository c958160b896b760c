"""The errors that a user can mend."""


class UserError(Exception):
    """Something outside the code is wrong; the message names it and the remedy, and is printed alone."""
