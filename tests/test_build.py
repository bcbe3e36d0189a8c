"""Artifacts and training steps built by real children, alone and forked from one process."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from cnnbench.records import artifact
from cnnbench.records.messages import Build
from cnnbench.runner.artifacts import Artifacts, Builders, build_into, start_worker
from cnnbench.runner.fork_server import CAN_FORK
from cnnbench.suite.case import ModelSpec

LENET = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)


def request(key: str) -> Build:
    return Build(spec=LENET, key=key, folder=str(artifact.folder_of(LENET, key)))


@pytest.mark.skipif(not CAN_FORK, reason="workers are forked on Linux alone")
def test_builders_are_forks_of_one_process_that_ends_with_them(tmp_path: Path) -> None:
    with closing(Builders()) as builders:
        start = builders.starter()
        with start(tmp_path / "one.log") as one, start(tmp_path / "other.log") as other:
            (parent,) = {psutil.Process(worker.pid).ppid() for worker in (one, other)}
            assert parent != os.getpid()
    assert not psutil.pid_exists(parent)


def test_a_forked_builder_builds_what_one_builds_that_imports_for_itself(tmp_path: Path) -> None:
    alone, forked = request("alone"), request("forked")
    facts = [build_into(alone, tmp_path / "alone.log", start_worker)]
    with closing(Builders()) as builders:
        facts.append(build_into(forked, tmp_path / "forked.log", builders.starter()))
    first, second = (each.model_copy(update={"key": "", "seconds": {}}) for each in facts)
    assert first == second
    for name in (artifact.WEIGHTS, artifact.GRAPH, artifact.GOLDEN):
        first_bytes, second_bytes = ((Path(each.folder) / name).read_bytes() for each in (alone, forked))
        assert first_bytes == second_bytes, name


def test_what_cannot_be_built_is_told_and_not_tried_again(tmp_path: Path) -> None:
    spec = ModelSpec(model="torchvision/resnet81")
    asked = Build(spec=spec, key="none", folder=str(artifact.folder_of(spec, "none")))
    tried: list[str] = []

    @contextmanager
    def around() -> Iterator[None]:
        tried.append(spec.label)
        yield

    artifacts = Artifacts()
    with closing(artifacts.builders):
        found = [artifacts.artifact(asked, tmp_path / "build.log", around=around) for _ in range(2)]
    assert found[0] == found[1]
    assert "expected a torchvision classifier" in str(found[0])
    assert tried == [spec.label]
