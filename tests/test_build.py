"""Artifacts and training steps: built once, on all cores, by scripted and by real children."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock, Timeout

from cnnbench.errors import InputError, ModelError, WorkerCrashed, WorkerError
from cnnbench.networks.trainable import ALL
from cnnbench.records import artifact, cache
from cnnbench.records.messages import Build, Failure
from cnnbench.records.reason import Reason
from cnnbench.records.record import ArtifactFacts, GraphFacts, PackageFacts, StepFacts
from cnnbench.runner import artifacts as making
from cnnbench.runner import machine
from cnnbench.runner.artifacts import Artifacts, Building, Built, Made, Wanted
from cnnbench.runner.fork_server import CAN_FORK, ForkServers, Lineage
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.worker import building as worker_building
from tests.in_process import Answer, ScriptedWorker
from tests.records import facts

LENET = ModelSpec(model="lenet5", image_size=(28, 28), classes=10)
STEP = Case(spec=LENET, workload="training", runtime="ort", batch=2)
INFERENCE = Case(spec=LENET, workload="inference", runtime="ort", batch=2)


class Builders:
    """What builds, and what was asked of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int = 2) -> None:
        self.script: dict[str, Answer] = {"build": facts(), "build_step": StepFacts(nodes=60)}
        self.asked: list[str] = []
        monkeypatch.setenv("CNNBENCH_CACHE", str(tmp_path))
        monkeypatch.setattr(machine, "usable_threads", lambda: cores)
        for way in ("start", "fork"):
            monkeypatch.setattr(ForkServers, way, lambda servers, *words: self._start(servers._limit_s, *words))

    def _start(self, limit_s: float, lineage: Lineage, log: Path) -> Worker:
        assert (lineage.purpose, lineage.threads) == ("build", 1)
        return ScriptedWorker(self.script, self.asked, log.stem.rpartition("-")[2], limit_s)


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Builders:
    return Builders(monkeypatch, tmp_path)


def models(count: int) -> list[ModelSpec]:
    return [ModelSpec(model=f"model{number}") for number in range(count)]


def test_as_many_are_built_at_once_as_there_are_cores_and_each_step_after_its_artifact(
    builders: Builders, tmp_path: Path
) -> None:
    told: list[Building] = []
    with Artifacts(tmp_path) as artifacts:
        wanted = [artifacts.wanted(spec, steps=(ALL,)) for spec in models(3)]
        assert len(artifacts.to_build(wanted)) == 6
        artifacts.build(wanted, lambda building: told.append(building) or True)  # type: ignore[func-returns-value]
        assert artifacts.to_build(wanted) == []
        assert all(artifacts.find(each).steps == {ALL: StepFacts(nodes=60)} for each in wanted)
    assert builders.asked[:2] == ["build model0", "build model1"]
    assert {line for line in builders.asked if line.endswith("model2")} == {"build model2", "build_step model2"}
    assert len(builders.asked) == 6
    running = most = 0
    for building in told:
        running += 1 if building.seconds is None else -1
        most = max(most, running)
    assert (running, most) == (0, 2)


@pytest.mark.parametrize(
    ("answer", "kind", "code", "reason"),
    [
        (Failure(failure="no such model", is_user_error=True), ModelError, "model", "no such model"),
        (-9, WorkerError, "crashed", "killed by SIGKILL"),
    ],
)
def test_a_build_that_fails_fails_its_own_cases_and_is_not_tried_again(
    builders: Builders, tmp_path: Path, answer: Answer, kind: type[Exception], code: str, reason: str
) -> None:
    builders.script["build"] = answer
    with Artifacts(tmp_path) as artifacts:
        for _ in range(2):
            with pytest.raises(kind, match=reason):
                artifacts.get(LENET)
        problem = artifacts.find(artifacts.wanted(LENET)).problem(INFERENCE)
    assert builders.asked == ["build lenet5"]
    assert problem is not None
    assert (problem.status, problem.reason.code) == ("failed", code)
    assert reason in problem.reason.detail


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (StepFacts(error="no gradient rule for aten.softplus"), "unavailable", "not-exportable: no gradient rule"),
        (-9, "failed", "crashed: the worker was killed by SIGKILL"),
        (Failure(failure="No space left on device", is_user_error=False), "failed", "error: No space left on device"),
    ],
)
def test_a_step_that_cannot_be_exported_is_unavailable_and_one_whose_build_crashed_failed(
    builders: Builders, tmp_path: Path, answer: Answer, status: str, reason: str
) -> None:
    builders.script["build_step"] = answer
    with Artifacts(tmp_path) as artifacts:
        wanted = artifacts.wanted(LENET, steps=(ALL,))
        artifacts.build([wanted])
        built = artifacts.find(wanted)
    assert built.problem(INFERENCE) is None
    problem = built.problem(STEP)
    assert problem is not None
    assert problem.status == status
    assert reason in str(problem.reason)


def test_a_graph_that_could_not_be_exported_fails_what_runs_it_alone(builders: Builders, tmp_path: Path) -> None:
    builders.script["build"] = facts().model_copy(update={"onnx_error": "no space left"})
    with Artifacts(tmp_path) as artifacts:
        artifacts.get(LENET)
        built = artifacts.find(artifacts.wanted(LENET))
    assert built.problem(INFERENCE.model_copy(update={"runtime": "eager"})) is None
    assert built.problem(INFERENCE) == ("unavailable", Reason(code="not-exportable", detail="no space left"))


def test_what_hangs_is_ended_after_the_limit(builders: Builders, tmp_path: Path) -> None:
    builders.script["build"] = ""
    with Artifacts(tmp_path, limit_s=0.1) as artifacts:
        start = time.monotonic()
        artifacts.build([artifacts.wanted(LENET)], lambda building: True)
        assert time.monotonic() - start < 15
        assert "no answer within" in str(artifacts.find(artifacts.wanted(LENET)).error)


def test_who_has_heard_enough_ends_what_is_being_built(builders: Builders, tmp_path: Path) -> None:
    with Artifacts(tmp_path) as artifacts:
        wanted = [artifacts.wanted(spec) for spec in models(4)]
        artifacts.build(wanted, lambda building: building.seconds is None)
        assert 0 < len(artifacts.to_build(wanted)) < 4


def test_a_finished_artifact_is_found_and_an_unfinished_one_or_one_without_a_graph_built_again(
    builders: Builders, tmp_path: Path
) -> None:
    def kept(key: str, onnx_error: str | None) -> Wanted:
        wanted = Wanted(LENET, key, steps=(ALL,))
        wanted.folder.mkdir(parents=True)
        (wanted.folder / artifact.FACTS).write_text(
            facts().model_copy(update={"onnx_error": onnx_error}).model_dump_json()
        )
        (wanted.folder / artifact.STEP_FACTS).write_text(StepFacts(nodes=60).model_dump_json())
        artifact.seal(wanted.folder, key)
        return wanted

    with Artifacts(tmp_path) as artifacts:
        assert artifacts.missing(kept("good", None)) == []
        assert [request.op for request in artifacts.missing(kept("bad", "full"))] == ["build", "build_step"]
        assert artifacts.find(Wanted(LENET, "none")).facts is None


def test_a_builder_that_cannot_be_started_costs_its_own_request_alone(
    builders: Builders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = builders._start

    def refused(limit_s: float, lineage: Lineage, log: Path) -> Worker:
        if log.name.startswith("build_step"):
            raise WorkerError("no more processes")
        return start(limit_s, lineage, log)

    monkeypatch.setattr(builders, "_start", refused)
    with Artifacts(tmp_path) as artifacts:
        wanted = artifacts.wanted(LENET, steps=(ALL, "head", "from:fc2"))
        artifacts.build([wanted])
        assert artifacts.to_build([wanted]) == []
        assert {part: str(error) for part, error in artifacts.find(wanted).step_errors.items()} == dict.fromkeys(
            (ALL, "head", "from:fc2"), "no more processes"
        )


def test_what_is_there_stays_where_a_graph_cannot_be_exported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_building, "MODULE", f"{__name__}:filled")
    monkeypatch.setattr(f"{__name__}.ERRORS", iter(["no space left", "no rule", None]))
    request = Build(spec=LENET, key="key", folder=str(folder := tmp_path / "lenet5-key"))
    worker_building.build_artifact(request)
    (folder / "package.pt2").write_text("made beside it")
    assert worker_building.build_artifact(request).onnx_error == "no rule"
    assert (folder / "package.pt2").exists()
    assert worker_building.build_artifact(request).onnx_error is None
    assert not (folder / "package.pt2").exists()


ERRORS: Iterator[str | None] = iter(())
"""Why each graph cannot be exported."""


def filled(request: Build, folder: Path) -> ArtifactFacts:
    """An artifact of facts alone."""
    found = facts().model_copy(update={"onnx_error": next(ERRORS)})
    (folder / artifact.FACTS).write_text(found.model_dump_json())
    return found


def test_a_step_that_another_process_finishes_meanwhile_is_taken(builders: Builders, tmp_path: Path) -> None:
    first, second = models(2)

    def another_process(building: Building) -> bool:
        """Finish the first model's step before it begins, and the second's as it begins."""
        is_step = building.what.startswith("exporting")
        if (building.spec, is_step, building.seconds is None) in ((first, False, False), (second, True, True)):
            folder = artifacts.wanted(building.spec).folder
            folder.mkdir(parents=True)
            (folder / artifact.STEP_FACTS).write_text(StepFacts(nodes=61).model_dump_json())
        return True

    with Artifacts(tmp_path) as artifacts:
        wanted = [artifacts.wanted(spec, steps=(ALL,)) for spec in (first, second)]
        artifacts.build(wanted, another_process)
        assert artifacts.to_build(wanted) == []
        assert artifacts.find(wanted[0]).steps == {ALL: StepFacts(nodes=61)}
    assert builders.asked == ["build model0", "build model1", "build_step model1"]


@pytest.mark.slow
@pytest.mark.skipif(not CAN_FORK, reason="workers are forked on Linux alone")
def test_a_forked_builder_builds_what_one_builds_that_imports_for_itself(tmp_path: Path) -> None:
    def build(key: str) -> Wanted:
        with Artifacts(tmp_path) as artifacts:
            wanted = [Wanted(LENET, key), Wanted(LENET, f"{key}-too")]  # a single one would not be forked
            artifacts.build(wanted[: 2 if key == "forked" else 1])
            artifacts.find(wanted[0]).require()
        return wanted[0]

    forked = build("forked")
    alone = build("alone")
    first, second = (artifact.read_facts(each.folder) for each in (forked, alone))
    assert first is not None
    assert second is not None
    same = {"key": "", "seconds": {}}
    assert first.model_copy(update=same) == second.model_copy(update=same)
    for name in (artifact.WEIGHTS, artifact.GRAPH, artifact.GOLDEN):
        assert (forked.folder / name).read_bytes() == (alone.folder / name).read_bytes(), name


@pytest.mark.slow
def test_an_artifact_that_another_process_has_built_meanwhile_is_taken(
    artifact_of: Callable[[ModelSpec], Path], tmp_path: Path
) -> None:
    """Two cold runs once deleted each other's artifacts."""
    folder = artifact_of(LENET)
    files = [file for file in folder.iterdir() if file.name != cache.SEAL]  # whose time is that of the last use
    before = {file.name: file.stat().st_mtime_ns for file in files}
    key = artifact.key_of(LENET, "")
    with Worker(tmp_path / "log", 1, 120.0) as worker:
        built = worker.ask(Build(spec=LENET, key=key, folder=str(folder)), ArtifactFacts)
    assert built == artifact.read_facts(folder)
    assert {file.name: file.stat().st_mtime_ns for file in files} == before


def test_one_process_builds_in_a_folder_at_a_time(tmp_path: Path) -> None:
    with cache.locked(tmp_path / "artifacts" / "lenet5-key"):
        (lock,) = (tmp_path / cache.LOCKS).iterdir()
        with pytest.raises(Timeout):
            FileLock(lock).acquire(timeout=0)
    FileLock(lock).acquire(timeout=0).lock.release()


INT8 = INFERENCE.model_copy(update={"precision": "int8", "threads": 1})
AOT = INFERENCE.model_copy(update={"runtime": "aot", "threads": 1})


@pytest.mark.parametrize(
    ("case", "about", "made", "problem"),
    [
        (INFERENCE, {}, None, None),
        (INT8, {}, None, None),
        (INT8, {}, GraphFacts(), None),
        (INT8, {}, GraphFacts(error="it overflows"), ("unavailable", "no-graph: it overflows")),
        (INT8, {}, InputError("no such data"), ("failed", "no-graph: no such data")),
        (INT8, {}, WorkerCrashed("killed"), ("failed", "crashed: killed")),
        (AOT, {}, PackageFacts(), None),
        (AOT, {}, PackageFacts(error="aten.odd"), ("unavailable", "not-exportable: aten.odd")),
        (INT8, {"onnx_error": "aten.odd"}, GraphFacts(), ("unavailable", "not-exportable: aten.odd")),
        (AOT, {"onnx_error": "aten.odd"}, PackageFacts(), None),
        (STEP, {"onnx_error": "aten.odd"}, None, None),
        (INFERENCE, {"batch": 2}, None, None),
        (INFERENCE, {"batch": 4}, None, ("unavailable", "unsupported: the file takes batches of 4 alone")),
    ],
)
def test_a_case_has_the_problem_of_what_it_runs_alone(
    tmp_path: Path, case: Case, about: dict[str, Any], made: Made | None, problem: tuple[str, str] | None
) -> None:
    built = Built(tmp_path, facts().model_copy(update=about))
    if made is not None:
        built = built.with_made(case, made)
    found = built.problem(case)
    assert (found and (found.status, str(found.reason))) == problem
    assert built.made_for(case) is made
    assert built.graph(case) == (made if isinstance(made, GraphFacts) else None)


def test_a_part_that_the_model_has_not_is_told_and_one_that_it_has_is_no_problem(tmp_path: Path) -> None:
    built = Built(tmp_path, facts().model_copy(update={"order": ["conv1", "fc"], "heads": ["fc"]}))
    for part in ("head", "from:conv1"):
        assert built.problem(STEP.model_copy(update={"trainable": part})) is None
    with pytest.raises(InputError, match="one of conv1, fc, or one inside them; got 'fc2'"):
        built.problem(STEP.model_copy(update={"trainable": "from:fc2"}))


def test_what_is_missing_of_a_model_is_its_artifact_then_steps_then_what_cases_run_of_their_own(tmp_path: Path) -> None:
    with Artifacts(tmp_path) as artifacts:
        wanted = artifacts.wanted(LENET, ("all", "head"), [INT8, AOT])

        def missing(**about: Any) -> list[tuple[str, str]]:
            artifacts._built[wanted.folder] = Built(wanted.folder, **about)
            requests = [request.model_dump() for request in artifacts.missing(wanted)]
            return [
                (each["op"], each.get("trainable") or (each.get("case") or {}).get("runtime", "")) for each in requests
            ]

        steps, cases = (
            [("build_step", "all"), ("build_step", "head")],
            [("build_graph", "ort"), ("build_package", "aot")],
        )
        assert missing() == [("build", ""), *steps, *cases]
        assert missing(facts=facts()) == [*steps, *cases]
        assert missing(error=ModelError("no such model")) == []
        known = {"all": StepFacts()}
        assert missing(facts=facts(), steps=known, step_errors={"head": WorkerCrashed("x")}) == cases
        assert missing(facts=facts(), steps=known) == [steps[1], *cases]
        not_exported = facts().model_copy(update={"onnx_error": "aten.odd"})
        assert missing(facts=not_exported) == [*steps, cases[1]]
        made = Built(wanted.folder).with_made(INT8, GraphFacts()).made
        assert missing(facts=facts(), made=made) == [*steps, cases[1]]
        said = [making._what(request) for request in artifacts.missing(wanted)]
        assert said == ["exporting and verifying the training step"] * 2 + ["compiling ahead for aot at batch 2"]
        missing()
        build, _, _, graph, _ = artifacts.missing(wanted)
        assert making._what(graph) == "making its graph in int8"
        assert making._what(build, "it is damaged").endswith("exporting again: in the cache, it is damaged")
        assert artifacts.to_build([wanted, wanted]) == [LENET] * 10
