"""A suite that cannot be used is told in one line for each mistake, with its place, soon, and nothing of it runs."""

import os
from pathlib import Path

import pytest

from cnnbench.errors import SuiteError
from cnnbench.suite import yaml_lines
from cnnbench.suite.load import load_suite
from cnnbench.suite.parse import parse_duration, parse_image_size, parse_percent
from cnnbench.suite.schema import MAX_CASES
from cnnbench.suite.yaml_lines import read_yaml

BOMB = "\n".join(["x0: &x0 [a]", *(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 9))])
D, M = "models: [lenet5]\ndefaults:\n  ", "models: [lenet5]\n"
NINES = "9" * 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a mapping with `models`; got nothing"),
        (BOMB, ":2: cannot be read as YAML: an alias, .x0; write the value out"),
        ("models: &a [*a]\n", ":1: .*an alias"),
        ("defaults: &a\n  <<: *a\nmodels: [lenet5]\n", ":2: .*an alias"),
        ("<<: 3\n" + M, ":1: .*mapping"),
        ("models: " + "[" * 5000 + "]" * 5000, ":1: .*more than 20 levels"),
        ("models: " + "{a: " * 5000 + "}" * 5000, ":1: .*more than 20 levels"),
        ("models: [" + "a, " * 30_000 + "]", ":1: .*values"),
        ("models: [lenet5\x07]\n", ":1: cannot be read as YAML: a character that it cannot hold"),
        ("models: !!python/object/apply:os.system [ls]\n", r":1: models\[0\]: .*constructor for the tag"),
        ("budget: !!int abc\n" + M, ":1: budget: .*a value that is no int"),
        ("budget: !!float x\n" + M, ":1: budget: .*a value that is no float"),
        ("budget: !!bool maybe\n" + M, ":1: budget: .*a value that is no bool"),
        ("budget: !!timestamp x\n" + M, ":1: budget: .*a value that is no timestamp"),
        ("budget: 2026-13-45\n" + M, ":1: budget: .*a value that is no timestamp"),
        ("budget: 0x_\n" + M, ":1: budget: .*a value that is no int"),
        ("budget: " + "9" * 5000 + "\n" + M, ":1: budget: .*a value that is no int"),
        (f"budget: {NINES}\n" + M, ":1: budget: expected a duration above zero and of at most 720h"),
        (f"budget: {NINES}m\n" + M, ":1: budget: expected a duration such as"),
        ("limit: 87600000h\n" + M, ":1: limit: expected a duration above zero and of at most 720h"),
        ("launches: 1001\n" + M, ":1: launches: expected a whole number of at most 1000"),
        ("name: " + "n" * 300 + "\n" + M, ":1: name: "),
        (D + "batches: [1, 8, 1]\n", ":3: defaults.batches: 1 stands twice; keep one"),
        (D + f"batches: [{NINES}]\n", r":3: defaults.batches\[0\]: expected a whole number of at most"),
        (D + f"classes: {NINES}\n", ":3: defaults.classes: expected a whole number of at most"),
        (D + "threads: 100000\n", ":3: defaults.threads: expected a whole number of at most 1024"),
        (D + f"seed: {2**64}\n", ":3: defaults.seed: expected a whole number of at most"),
        (D + "image_size: 3\n", ":3: defaults.image_size: "),
        ("models:\n  - {model: lenet5, image_size: 3}\n", r":2: models\[0\].image_size: "),
        (D + "image_size: '" + "9" * 5000 + "'\n", ":3: defaults.image_size: expected an image size"),
        (D + f"batches: {list(range(1, 7000))}\n", f"expected at most {MAX_CASES:,} cases"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(text)
    with pytest.raises(SuiteError, match=message) as error:
        load_suite(str(file))
    assert str(error.value).startswith(f"{file}:")
    assert len(max(str(error.value).splitlines(), key=len)) < 1000


def test_what_is_no_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "latin").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "large").write_text("# " + "x" * 100)
    monkeypatch.setattr(yaml_lines, "MAX_BYTES", 100)
    for name, message in {
        "pipe": "expected a file",
        "zero": "expected a file",
        "loop": "cannot be read",
        "latin": "UTF-8",
        "large": "at most 100 bytes",
        "n" * 300: "cannot be read",
    }.items():
        with pytest.raises(SuiteError, match=message):
            read_yaml(tmp_path / name)


@pytest.mark.parametrize("text", ["５m５", "1_0", NINES, "1e999", "-1", " ", True, float("nan"), 10**400])
def test_a_duration_is_nothing_odd(text: str | float) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", [NINES, "", "nan", "0." + "0" * 400 + "1", "2%%"])
def test_a_share_is_nothing_odd(text: str) -> None:
    with pytest.raises(ValueError, match="expected a share"):
        parse_percent(text)


def test_an_image_size_may_be_quoted_in_a_file_and_has_bounds() -> None:
    assert parse_image_size(" 480x640 ") == (480, 640)
    for text in ("1" * 300, "1x2x3x4", "0x5", True, -5, 2.5, 10**400):
        with pytest.raises(ValueError, match="expected an image"):
            parse_image_size(text)  # type: ignore[arg-type]
