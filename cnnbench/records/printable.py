"""Text of others as it can be shown: nothing in it commands a terminal, turns lines around, or ends a line."""

import re

_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f"
_TURNING = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_NOT_PRINTABLE = re.compile(f"[{_CONTROLS}\x1b\t\n\r\u2028\u2029{_TURNING}\ud800-\udfff]")
_COMMANDS = re.compile(f"\x1b(?!\\[[0-9;?]*[A-Za-z])|[{_CONTROLS}{_TURNING}]")


def printable(text: str) -> str:
    r"""The text with `\u001b` in the place of such a character: one line that shows what it holds."""
    return _NOT_PRINTABLE.sub(_named, text)


def without_commands(text: str) -> str:
    """Output of this program: colours, cursor and line ends pass, all else that a terminal would obey is shown."""
    return _COMMANDS.sub(_named, text)


def _named(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"
