"""The README and the pages of docs/: links lead somewhere, every page is in the index, every code block is checked.

Commands of code blocks parse; suites, prices and acknowledgements are read by what reads them; Python is run; what a
command printed is compared with what it prints. A block that no rule here knows fails.
"""

import importlib.util
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import cnnbench
from cnnbench.analysis.prices import read_prices
from cnnbench.history.changes import ACKNOWLEDGED, read_acknowledged
from cnnbench.records.messages import Sampled
from cnnbench.report.answer import lines
from cnnbench.suite.load import load_suite
from cnnbench.suite.study import load_study
from tests import scripted
from tests.conftest import ROOT
from tests.scripted import Says
from tests.test_help import parse
from tests.test_pytest_plugin import follow, pytest_in

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
INDEX = ROOT / "docs" / "README.md"
OTHERS = ("python3 -m venv ", "pip install ", "pytest ", "python -m cnnbench.worker", "srun ", "git ", "gh ")
"""How lines of other programs begin."""


@dataclass(frozen=True)
class Block:
    file: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Its lines without prompts and comments, if each is one of a shell."""
        found = [line.removeprefix("$ ").partition("  #")[0].strip() for line in self.text.splitlines()]
        return found if all(line.startswith(("cnnbench ", *OTHERS)) for line in found) else []


def blocks() -> Iterator[Block]:
    for file in PAGES:
        text = file.read_text(encoding="utf-8")
        for found in re.finditer(r"(?ms)^```(\w*)\n(.*?)^```$", text):
            yield Block(file, text.count("\n", 0, found.start()) + 1, found[1], found[2])


BLOCKS = list(blocks())


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def scripts(content: Any) -> Iterator[str]:
    """What a CI's steps run, in parsed YAML."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key in ("run", "script"):
                yield from [value] if isinstance(value, str) else value
            else:
                yield from scripts(value)
    elif isinstance(content, list):
        for each in content:
            yield from scripts(each)


def called(block: Block) -> Iterator[list[str]]:
    """The words of each call of cnnbench in a block of shell or of a CI's steps."""
    text = "\n".join(scripts(yaml.safe_load(block.text))) if block.language == "yaml" else block.text
    for line in text.splitlines():
        for found in re.findall(r"(?:^|[ (/'])cnnbench +([a-z].*)", line):
            words = re.sub(r" \[(--.*?)\]", r" \1", found)  # what may be left out
            words = words.removesuffix("'") if words.count("'") % 2 else words
            lexer = shlex.shlex(re.sub(r"\$\{\{.*?\}\}", "x", words), posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            yield list(itertools.takewhile(lambda word: not set(word) <= set("();<>|&"), lexer))


@pytest.mark.parametrize("block", [*of(""), *of("sh"), *of("yaml")], ids=str)
def test_each_command_in_a_code_block_parses(block: Block) -> None:
    for words in called(block) if block.text != TREE else ():
        parse(words)
        for word in words:
            assert not word.startswith(("suites/", "reports/")) or (ROOT / word).exists(), word


def kind_of(content: Any) -> str:
    if isinstance(content, list):
        return "acknowledged" if "change" in content[0] else "steps"
    kinds = {
        "claims": "study",
        "models": "suite",
        "defaults": "suite",
        "machines": "prices",
        "jobs": "jobs",
        "cnnbench": "jobs",
    }
    return next(kind for key, kind in kinds.items() if key in content)


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_read_by_what_reads_it(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(block.text)
    file = tmp_path / ACKNOWLEDGED
    (tmp_path / "path" / "to").mkdir(parents=True)
    for name in ("net.onnx", "program.pt2"):
        (tmp_path / "path" / "to" / name).touch()
    has_timm = importlib.util.find_spec("timm")
    file.write_text(block.text if has_timm else re.sub(r"(?m)^  - timm/.*\n", "", block.text))
    match kind_of(content):
        case "suite":
            assert load_suite(str(file)).cases
        case "study":
            assert load_study(file, "short").claims
        case "prices":
            assert read_prices(file, content["machines"])
        case "acknowledged":
            assert read_acknowledged(tmp_path)
        case "jobs" | "steps":
            assert list(called(block)) or "uses: OWNER/cnnbench" in block.text


def test_toml_names_what_the_python_beside_it_has() -> None:
    python = "".join(block.text for block in of("python"))
    found = [tomllib.loads(block.text) for block in of("toml")]
    assert len(found) == 2
    for each in found:
        for points in each["project"]["entry-points"].values():
            for module, name in (point.split(":") for point in points.values()):
                assert f"# {module}.py\n" in python
                assert re.search(rf"(?m)^(class )?{name}\b", python)


def begins(text: str) -> Block:
    (block,) = (block for block in BLOCKS if block.text.startswith(text))
    return block


TREE = begins("cnnbench/\n").text


def test_the_readmes_answer_is_that_of_the_report_it_names() -> None:
    block = begins("classic on ")
    folder = re.search(r"\[this run\]\((reports/[\w-]+)/", block.file.read_text())
    assert folder
    answer = lines(cnnbench.load(ROOT / folder[1]).answer, "report.html")[:-1]
    assert [" ".join(line.split()) for line in block.text.splitlines()] == [
        " ".join(f"{each.label} {text}".split()) if not number else " ".join(text.split())
        for each in answer
        for number, text in enumerate(each.text.splitlines())
    ]


def test_the_profile_that_is_shown_has_the_macs_of_the_closed_form() -> None:
    block = begins("$ cnnbench profile mobilenet_v2")
    macs = {row["name"]: row["macs"] for row in cnnbench.count("mobilenet_v2").as_rows()}
    shown = re.findall(r"(?m)^ +(\S+) +(?:Conv|Linear) +([\d,]+) ", block.text)
    assert len(shown) == 3
    assert {layer: int(number.replace(",", "")) for layer, number in shown} == {name: macs[name] for name, _ in shown}


def test_the_tree_of_the_code_is_the_trees() -> None:
    inside = [ROOT]
    for line in TREE.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.findall(r"(?:^|  )(\w+(?:/|\.py)) +", f"{line.strip()} ")
        assert names, line
        inside[depth + 1 :] = [inside[depth] / names[0]]
        assert all((inside[depth] / name).exists() or (inside[-1] / name).exists() for name in names), line


@pytest.mark.slow
def test_a_worker_answers_by_hand_as_is_shown(tmp_path: Path) -> None:
    _, request, answer = begins("$ python -m cnnbench.worker").text.splitlines()
    command = [sys.executable, "-m", "cnnbench.worker"]
    done = subprocess.run(command, input=request + "\n", capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == json.loads(answer)


def test_an_architectures_function_describes_a_network() -> None:
    head = "from cnnbench.networks import layers as nn\nfrom cnnbench.networks.architecture import ours\n"
    head += "from cnnbench.networks.families.blocks import chain\nfrom cnnbench.networks.network import Net\n"
    head += "from cnnbench.networks.layers import Value\n"
    names: dict[str, Any] = {}
    exec(head + begins("def tiny(").text, names)
    network = names["NETWORKS"][0].network()
    assert network.params == 3 * 9 * 16 + 16 + 16 * 10 + 10


def test_a_plugins_traits_are_some() -> None:
    names: dict[str, Any] = {}
    exec(begins("# my_traits.py").text, names)
    assert names["KIND"].name == "exported"


@pytest.mark.slow
def test_what_python_can_do_with_runs_is_done(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source, name in {
        "classic-avx512-2cores-20261127": "classic-20260101-120000",
        "threads-epyc-20261122/one-thread": "laptop",
        "threads-epyc-20261122/two-threads": "server",
    }.items():
        shutil.copytree(ROOT / "reports" / source, home / "runs" / name)
    shutil.copytree(ROOT / "suites", home / "suites")
    scripted.use(monkeypatch, home, *scripted.lenet())
    names: dict[str, Any] = {}
    exec(begins("import cnnbench\n").text, names)
    assert names["network"].params > 0
    assert len(names["compared"].frame)


@pytest.mark.slow
def test_a_test_of_ones_own_measures(home: Path) -> None:
    """With workers that follow a script, in which eager takes twice as long."""
    slower = Says("sample", Sampled(seconds={"forward": [0.02, 0.02]}), runtime="eager")
    follow(home, slower)
    (home / "test_mine.py").write_text(begins("from cnnbench.analysis.times").text)
    done = pytest_in(home, "test_mine.py")
    assert "1 passed" in done.stdout, done.stdout


def test_every_code_block_is_checked_by_one_of_these() -> None:
    shown = [begins(text) for text in ("classic on ", "$ cnnbench profile ", TREE, "$ python -m cnnbench")]
    for block in BLOCKS:
        known = {"yaml": True, "toml": True, "sh": True, "python": block.text.startswith(PYTHON)}
        assert known.get(block.language, bool(block.commands) or block in shown), block


PYTHON = ("def tiny(", "# my_runtime.py", "# my_traits.py", "import cnnbench\n", "from cnnbench.analysis.times")
"""`my_runtime.py` is run by test_runtimes.py."""


def anchors(text: str) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_links_lead_to_files_and_headings_that_are_there(file: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", file.read_text())):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            there = file.parent / path if path else file
            assert there.exists(), target
            assert not anchor or anchor in anchors(there.read_text()), target


def test_every_page_is_in_the_index_and_the_readme_links_to_it() -> None:
    linked = set(re.findall(r"\]\(([\w.]+)[)#]", INDEX.read_text()))
    assert linked == {file.name for file in (ROOT / "docs").iterdir() if file != INDEX}
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
