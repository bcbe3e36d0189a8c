"""Data stay data in Markdown, in spreadsheets and in JSON."""

import html
import json

import pandas as pd
import pytest

from cnnbench.report import escape


@pytest.mark.parametrize(
    "text",
    [
        "![x](http://evil/p.png)",
        "[x](javascript:alert(1))",
        "<script>",
        "a | b",
        "a \\| b",
        "# heading",
        "- item",
        "1. item",
        "two\n\n# lines",
        "`code`",
        "**bold** _emphasis_ ~~gone~~",
    ],
)
def test_markdown_sees_no_mark_in_data(text: str) -> None:
    shown = escape.markdown(text)
    assert not set("<>|\\`*\n") & set(shown)
    assert "](" not in shown
    assert "~~" not in shown
    assert not shown.startswith(("#", "-", "1."))
    assert html.unescape(shown) == " ".join(text.split())


@pytest.mark.parametrize("text", ["mobilenet_v2@96x96/k10", "0.98 [0.95, 1.02]", "-5 %", "failed [1]", "ort/cpu #2"])
def test_what_needs_no_escape_has_none(text: str) -> None:
    assert escape.markdown(text) == text


def test_a_word_of_a_frame_is_no_formula_and_numbers_stay() -> None:
    frame = pd.DataFrame({"name": ["=1+1", "+x", "-x", "@x", "\tx", "ort", None], "=ms": [-1.5, 2, 3, 4, 5, 6, None]})
    lines = escape.spreadsheet(frame).splitlines()
    assert lines[0] == "name,'=ms"
    assert all(line.startswith("'") for line in lines[1:6])
    assert lines[1] == "'=1+1,-1.5"
    assert lines[6] == "ort,6.0"


def test_a_number_that_is_none_is_null() -> None:
    content = {"a": [float("nan"), float("inf"), 1.5], "b": "NaN", "é": 1}
    for text in (escape.strict_json(content), escape.strict_json(content, 2, ascii_only=False)):
        assert json.loads(text) == {"a": [None, None, 1.5], "b": "NaN", "é": 1}


def test_code_is_not_ended_by_what_is_in_it() -> None:
    assert escape.code("a`b\nc") == "`a'b c`"
