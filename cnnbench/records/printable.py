"""Text of others as it can be shown: nothing in it commands a terminal, turns lines around, or ends a line."""

import re

_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f"
_TURNING = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_NOT_PRINTABLE = re.compile(f"[{_CONTROLS}\x1b\t\n\r\u2028\u2029{_TURNING}\ud800-\udfff]")
_COMMANDS = re.compile(f"\x1b(?!\\[[0-9;?]*[A-Za-z])|[{_CONTROLS}{_TURNING}]")
_ESCAPES = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\(?:u[0-9a-fA-F]{4}|.)")


def printable(text: str) -> str:
    r"""The text with `\u001b` in the place of such a character: one line that shows what it holds."""
    return _NOT_PRINTABLE.sub(_named, text)


def without_commands(text: str) -> str:
    """Output of this program: colours, cursor and line ends pass, all else that a terminal would obey is shown."""
    return _COMMANDS.sub(_named, text)


def printable_json(content: bytes) -> bytes:
    """JSON whose strings are all printable, whether a character stands in it as it is or as an escape."""
    text = content.decode(errors="replace")
    return _ESCAPES.sub(_escaped, _NOT_PRINTABLE.sub(_raw, text)).encode()


def _named(match: re.Match[str]) -> str:
    return f"\\u{ord(match.group()):04x}"


def _raw(match: re.Match[str]) -> str:
    return match.group() if match.group() in "\t\n\r" else f"\\\\u{ord(match.group()):04x}"


def _escaped(match: re.Match[str]) -> str:
    """An escape sequence of JSON as it is, or behind one more backslash, so that it is only shown."""
    short = {"\\n": "\\u000a", "\\r": "\\u000d", "\\t": "\\u0009", "\\b": "\\u0008", "\\f": "\\u000c"}
    escape = short.get(match.group(), match.group())
    is_character = len(escape) == 6 and escape[1] == "u"
    return f"\\{escape}" if is_character and _NOT_PRINTABLE.match(chr(int(escape[2:], 16))) else match.group()
