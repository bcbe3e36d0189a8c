"""The notebook in docs/: its cells run, and print and show what is stored in it."""

import ast
import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
SHOWN = {"_repr_html_": "text/html", "_repr_svg_": "image/svg+xml", "__repr__": "text/plain"}
"""What a cell's value is shown by, the first that it has, and as what."""


def split(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def run(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """The outputs of a cell, as a notebook keeps them."""
    body = ast.parse(source).body
    value, printed = None, io.StringIO()
    with contextlib.redirect_stdout(printed):
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": split(text)})
    if value is not None:
        way = next(way for way in SHOWN if hasattr(value, way))
        data = {SHOWN[way]: split(getattr(value, way)())}
        outputs.append({"data": data, "execution_count": None, "metadata": {}, "output_type": "execute_result"})
    return outputs


def words(outputs: list[dict[str, Any]]) -> list[str]:
    """What a reader sees of outputs; marks between it may differ between versions of pandas and vl-convert."""
    text = "".join("".join(each.get("text", ()) or next(iter(each["data"].values()))) for each in outputs)
    return re.sub(r"(?s)<style.*?</style>|<[^>]*>", " ", text).split()


@pytest.mark.slow
def test_the_notebooks_cells_show_what_is_stored(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(NOTEBOOK.parent)
    content = json.loads(NOTEBOOK.read_text())
    names: dict[str, Any] = {}
    found = [run("".join(cell["source"]), names) for cell in cells(content)]
    if request.config.getoption("--renew"):
        for number, (cell, outputs) in enumerate(zip(cells(content), found, strict=True), 1):
            cell |= {"outputs": outputs, "execution_count": number}
        NOTEBOOK.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    assert [words(cell["outputs"]) for cell in cells(content)] == list(map(words, found))
    assert [bool(outputs) for outputs in found] == [True] * 5


def cells(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Those with code."""
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_no_path_of_a_machine() -> None:
    assert str(Path.home()) not in NOTEBOOK.read_text()
    assert "/tmp/" not in NOTEBOOK.read_text()
