"""What others wrote can be shown: no character of it commands, turns around, or ends a line."""

import json

import pytest

from cnnbench.records.printable import printable, printable_json


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
def test_text_and_json_become_one_line_that_shows_what_it_holds(text: str, shown: str) -> None:
    assert printable(text) == shown
    for ascii_only in (True, False):
        content = json.dumps({text: [text]}, ensure_ascii=ascii_only).encode(errors="surrogatepass")
        cleaned = json.loads(printable_json(content))
        if "\ud800" not in text or ascii_only:
            assert cleaned == {shown: [shown]}


def test_escapes_that_are_none_stay() -> None:
    content = json.dumps({"path": "C:\\u001b", "quote": '"\\"', "a": "\\\\n"}, indent=1).encode()
    assert printable_json(content) == content
