"""The examples of each command's help do what they say, as they are written, where there is what they name.

What measures or trains for minutes is given workers that follow a script. Those that take ten seconds and more all the
same are run where CNNBENCH_EXAMPLES=all is set: half an hour of a CPU together.
"""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import get_model_weights

from cnnbench.history import store
from cnnbench.records import messages, training_history
from cnnbench.records.artifact import WEIGHTS
from cnnbench.records.record import Memory, Ran
from cnnbench.records.task_messages import Epoch, Evaluated, TrainingStarted
from cnnbench.records.training_history import EpochResult
from cnnbench.suite.case import ModelSpec
from tests import scripted
from tests.conftest import ROOT, Cli
from tests.scripted import Says
from tests.test_curves import RUNS
from tests.test_git import USER, call
from tests.test_help import GROUP, commands, examples
from tests.test_history import DAY, entry, gate_folder
from tests.test_history_import import asv
from tests.test_serving_launch import asked

__all__ = ["asked"]

pytestmark = pytest.mark.slow

ELSEWHERE = [["gate", "suites/smoke.yaml", "--exact"]]
"""Run by tests/test_expectation.py."""
EXAMPLES = [words for path in commands(GROUP) for words in examples(path) if words not in ELSEWHERE]
LONG = ("run", "gate", "calibrate", "bisect", "train", "train-suite")
"""What is given workers that follow a script."""
SLOWEST = (
    "gate",
    "calibrate",
    "report",
    "verify",
    "export",
    "profile",
    "diverge",
    "inspect",
    "evaluate",
    "doctor",
    "study",
)
"""What takes about ten seconds and more; a study a quarter of an hour."""
ArtifactOf = Callable[[ModelSpec], Path]


def interpreter(file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    file.chmod(0o755)


def picture(file: Path) -> None:
    Image.new("RGB", (320, 240), "orange").save(file)


def trained(file: Path) -> None:
    training_history.write(file, RUNS["fast" if "ort" in file.name else "slow"])


def history(folder: Path) -> None:
    """Of ten commits, a day apart, of which the sixth made a case slower by half."""
    commits = []
    for number in range(10):
        when = os.environ | {"GIT_COMMITTER_DATE": f"{(DAY + timedelta(days=number)).isoformat()}"}
        words = ["git", *USER, "commit", "-qm", str(number), "--allow-empty"]
        subprocess.run(words, cwd=folder.parent, check=True, env=when)
        commits.append(call(folder.parent, "rev-parse", "HEAD"))
    case = "resnet18/inference/ort/cpu/fp32/b1"
    store.add(
        folder,
        [
            entry(number, case=case, commit=head, base=base, log_ratio=0.4 * (number == 6))
            for number, (base, head) in enumerate(itertools.pairwise(commits), 1)
        ],
    )


def published(folder: Path, weights: Path) -> None:
    """Weights where torchvision's download would put those of ResNet-18."""
    folder.mkdir(parents=True)
    name = get_model_weights("resnet18").DEFAULT.url.rpartition("/")[2]
    torch.save(load_file(weights), folder / name)


def script() -> list[Says]:
    """What a worker says when all is well; of LeNet-5 the counts are right, and nothing takes longer than in base."""
    *others, closed = scripted.lenet()
    kept = messages.Closed(
        parity=[],
        memory=Memory(imported_bytes=1, loaded_bytes=2, peak_bytes=3),
        ran=Ran(device="cpu", device_name="CPU", threads=2, precision="fp32", allocator="keep"),
        faults=[],
    )
    result = EpochResult(epoch=1, seconds=1.0, loss=0.5, rate=0.01, accuracy={"eager": 0.5, "ort": 0.5})
    return [
        *others,
        Says("close", kept, allocator="keep"),
        closed,
        Says("start_training", TrainingStarted(train_images=64, test_images=10, steps_per_epoch=1, parameters=9)),
        Says("advance", Epoch(steps=1, loss=0.5, seconds=0.1, over=True)),
        Says("evaluate", Evaluated(result=result, over=False)),
    ]


def gated(folder: Path) -> None:
    repository = folder.parent.parent
    call(repository, "tag", "one", "v1.0")
    call(repository, "tag", "two", "main")
    folder.parent.mkdir()
    gate_folder(folder, repository)


def photos(folder: Path) -> None:
    for name in ("bird", "cat", "dog"):
        (folder / name).mkdir(parents=True)
        picture(folder / name / "1.jpg")


MAKERS: dict[str, Callable[[Path], object]] = {
    "old/bin/python": interpreter,
    "new/bin/python": interpreter,
    "cat.jpg": picture,
    "photos": photos,
    "lenet5-ort.history.jsonl": trained,
    "lenet5-eager.history.jsonl": trained,
    "history": history,
    "runs/gate-smoke-20260101-120000": gated,
    ".asv/results": asv,
}
"""What makes a file or folder that examples name."""
ARTIFACTS = {
    "best.safetensors": ("resnet18", "weights.safetensors"),
    "exported.onnx": ("resnet18", "model.onnx"),
    "simple_cnn-ort.safetensors": ("simple_cnn", "weights.safetensors"),
}
"""The model whose artifact has a file that examples name."""


def prepare(home: Path, words: list[str], artifact_of: ArtifactOf) -> None:
    call(home, "init", "-q", "-b", "main", ".")
    for name in ("suites", *(word for word in words if word.startswith("reports/"))):
        shutil.copytree(ROOT / name, home / name)
    call(home, "add", ".")
    call(home, "commit", "-qm", "first")
    call(home, "tag", "v1.0")
    call(home, "commit", "-qm", "second", "--allow-empty")
    for word in words:
        if word in MAKERS and not (home / word).exists():
            MAKERS[word](home / word)
        if word in ARTIFACTS:
            model, name = ARTIFACTS[word]
            shutil.copy(artifact_of(ModelSpec(model=model)) / name, home / word)
        if word == "cache":
            artifact_of(ModelSpec(model="simple_cnn"))
        if word == "DEFAULT":
            published(home / "hub" / "checkpoints", artifact_of(ModelSpec(model="resnet18")) / WEIGHTS)
        if word.startswith("/") and not Path(word).exists():
            pytest.skip(f"{word} is not here")


@pytest.mark.parametrize("words", EXAMPLES, ids=shlex.join)
def test_an_example_of_the_help_works_as_it_is_written(
    words: list[str],
    cli: Cli,
    home: Path,
    artifact_of: ArtifactOf,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if words[0] in SLOWEST and os.environ.get("CNNBENCH_EXAMPLES") != "all":
        pytest.skip("takes about ten seconds and more; CNNBENCH_EXAMPLES=all runs it")
    monkeypatch.setenv("TORCH_HOME", str(home))
    prepare(home, words, artifact_of)
    if words[0] in LONG:
        scripted.use(monkeypatch, home, *script())
    elif words[0] == "tune-serving":
        request.getfixturevalue("asked")
    done = cli(*words)
    # Workers that follow a script are never slower, so that no slowdown is detected, and no commit has made one.
    assert done.returncode == (3 if "--inject" in words or "bisect" in words else 0), done.stdout + done.stderr
    assert done.stdout or words[:2] == ["cache", "prune"], "nothing is so old"
    for option, file in itertools.pairwise(words):
        assert option not in ("--out", "--page", "--export") or any(home.glob(f"{Path(file).stem}*"))
