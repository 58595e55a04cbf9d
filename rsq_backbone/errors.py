"""The error a user can mend."""

__all__ = ['UserError']


class UserError(ValueError):
    """Wrong input; the message is one line that says what is wrong and how to mend it."""
