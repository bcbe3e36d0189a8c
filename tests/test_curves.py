"""`cnnbench curves`: histories of training runs, in words and in one picture."""

from pathlib import Path

import pytest

from cnnbench.errors import InputError
from cnnbench.records import training_history
from cnnbench.records.training_history import EpochResult, History, Trained, history_of, prepared_otherwise
from cnnbench.report import curves
from tests.conftest import Cli


def history(runtime: str, accuracies: list[float], seconds: float) -> History:
    epochs = [
        EpochResult(
            epoch=place, seconds=place * seconds, loss=1 / place, rate=0.1, accuracy={"eager": share, "ort": share}
        )
        for place, share in enumerate(accuracies, 1)
    ]
    return History(run=Trained(model="lenet5", runtime=runtime), epochs=epochs)


RUNS = {"slow": history("eager", [0.5, 0.8, 0.9], 20.0), "fast": history("ort", [0.6, 0.85, 0.84], 8.0)}


def test_text_has_the_time_to_the_highest_accuracy_that_all_reach() -> None:
    assert list(curves.text(RUNS)) == [
        "slow: 90.00% after 3 epochs, 60.0 s; at least 85.00% for the first time after 3 epochs, 60.0 s",
        "fast: 84.00% after 3 epochs, 24.0 s; at least 85.00% for the first time after 2 epochs, 16.0 s",
    ]


def test_the_picture_has_both_runs_over_epochs_and_over_seconds() -> None:
    drawn = curves.chart(RUNS)
    assert drawn.png.startswith(b"\x89PNG")
    assert all(words in drawn.svg for words in ("slow", "fast", "epochs", "seconds of training", "accuracy", "loss"))


def test_a_command_reads_what_was_written_and_draws(tmp_path: Path, cli: Cli) -> None:
    files = [str(tmp_path / f"{name}.history.jsonl") for name in RUNS]
    for file, run in zip(files, RUNS.values(), strict=True):
        training_history.write(Path(file), run)
        assert training_history.read(Path(file)) == run
    done = cli("curves", *files, "--out", str(tmp_path / "curves.svg"))
    assert done.returncode == 0, done.stderr
    assert "fast: 84.00% after 3 epochs" in done.stdout
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_weights_whose_images_were_prepared_otherwise_are_told(tmp_path: Path) -> None:
    weights, epochs = tmp_path / "x.safetensors", RUNS["slow"].epochs
    assert prepared_otherwise(weights, "shapes") is None
    for data in ("shapes", "shapes@resized", ""):
        run = History(run=Trained(model="lenet5", runtime="eager", data=data), epochs=epochs)
        training_history.write(history_of(weights), run)
        told = {other: prepared_otherwise(weights, other) for other in ("digits", "digits@resized")}
        expected = {"shapes": "digits@resized", "shapes@resized": "digits"}.get(data)
        assert [other for other, said in told.items() if said] == ([expected] if expected else [])
        if expected:
            assert f"trained on {data}, so expected images of that preparation; got {expected}" in str(told[expected])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("", "it is something else"),
        ('{"model": "a", "runtime": "ort"}\nx\n', "it is something else"),
        ('{"model": "a", "runtime": "ort"}\n', "expected epochs with the accuracy in ort"),
    ],
)
def test_what_is_no_history_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "x.history.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=message):
        training_history.read(file)
