"""The error a user can mend, and how others are quoted in one line."""

__all__ = ['UserError', 'one_line']


class UserError(ValueError):
    """Wrong input; the message is one line that says what is wrong and how to mend it."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """The text of any exception, or its kind where it has none, fit for one line."""
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[:limit] + ' ...'
