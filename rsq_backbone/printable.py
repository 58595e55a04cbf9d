"""Names that come from anywhere, made fit for one line of a terminal, a report or a CSV file."""
import re

__all__ = ['UNPRINTABLE', 'printable']

# What is not UTF-8, control characters (with which a name could rewrite what a terminal shows) and line ends.
UNPRINTABLE = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')

# Also controls of the direction of writing, which names in some scripts rightly hold.
_ESCAPED = re.compile(f'{UNPRINTABLE.pattern[:-1]}\u202a-\u202e\u2066-\u2069]')


def printable(text: object) -> str:
    """The text with such characters as escapes, e.g. \\x1b."""
    return _ESCAPED.sub(lambda found: ascii(found.group())[1:-1], str(text))
