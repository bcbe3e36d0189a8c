"""What others wrote can be shown: no character of it commands, turns around, or ends a line."""

import pytest

from cnnbench.records.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe, 日本語 ✓", "größe, 日本語 ✓"),
        ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
        ("two\nlines\r\tand a tab", "two\\u000alines\\u000d\\u0009and a tab"),
        ("\u202eturned\u2069", "\\u202eturned\\u2069"),
        ("\u2028\x85\x00\ud800", "\\u2028\\u0085\\u0000\\ud800"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_text_becomes_one_line_that_shows_what_it_holds(text: str, shown: str) -> None:
    assert printable(text) == shown
