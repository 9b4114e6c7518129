"""Text of unknown origin, made fit for terminals and for files in UTF-8.

What would move a terminal's cursor or set its title is shown, not obeyed, and so are the bytes of file names that are
no text, which Python holds as halves of characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

KEPT = "\n\t"
UNSAFE = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Unicode categories: control characters, halves of characters, separators of lines and paragraphs."""
TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of writing, so that a name reads as another one."""


def as_printable(text: str) -> str:
    r"""Return the text with every character that a terminal would obey written as Python would write it.

    >>> as_printable("a\x1b[2J b\nc \x9b31m \udcff")
    'a\\x1b[2J b\nc \\x9b31m \\udcff'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_printable_character, text))


def as_one_line(text: str) -> str:
    r"""Return the text as `as_printable` does, line ends and tabs shown too: it cannot pretend to be several texts.

    >>> as_one_line("a\nwarning: b")
    'a\\nwarning: b'
    """
    return as_printable(text).replace("\n", "\\n").replace("\t", "\\t")


def as_encodable(text: str) -> str:
    r"""Return the text with halves of characters, which UTF-8 does not have, as Python writes them; else unchanged.

    For paths that programs open again: unlike `as_printable` it keeps every name that is text.

    >>> as_encodable("a\udcff\x1b")
    'a\\udcff\x1b'
    """
    return text.encode(errors="backslashreplace").decode()


def with_printable_texts(value: object) -> object:
    """Return a JSON value with all texts in it made printable, also keys and those in tuples, which become lists."""
    if isinstance(value, str):
        return as_printable(value)
    if isinstance(value, Mapping):
        return {as_printable(str(key)): with_printable_texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_printable_texts(item) for item in value]
    return value


def _printable_character(character: str) -> str:
    if character in KEPT:
        return character
    is_unsafe = unicodedata.category(character) in UNSAFE or character in TURNING
    return ascii(character)[1:-1] if is_unsafe else character
