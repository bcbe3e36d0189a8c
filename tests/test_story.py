"""A run's story with scripted workers: what is built, measured, recorded and repeated, and in which order."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cnnbench.errors import ModelError, RunFolderError, WorkerError
from cnnbench.records.messages import Failure
from cnnbench.records.record import CounterResults, Record, StepFacts
from cnnbench.records.run_folder import read_run
from cnnbench.runner import machine
from cnnbench.runner.fork_server import ForkServers, Lineage
from cnnbench.runner.run import Ended, run
from cnnbench.runner.worker_process import Worker
from cnnbench.suite.load import Suite, load_suite
from tests.conftest import FillDisk, write_suite
from tests.in_process import Answer, ScriptedWorker
from tests.records import facts

SUITE = """
name: story
launches: 2
defaults: {workloads: [inference], batches: [1], case_budget: 1ms}
models: [lenet5, simple_cnn]
"""

FACTS = facts().model_copy(update={"counters": CounterResults(closed_form={"conv": (1, 2)}, counted={})})


class Watch:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def doing(self, what: str, left_s: float) -> None:
        assert left_s >= 0

    def done(self, record: Record) -> None:
        launches = len(record.measurement.launches) if record.measurement else 0
        self.log.append(f"{record.id}: {record.status}, {launches} launches")


class Story:
    """A run in which workers do as their scripts say; the script of a worker is found by a part of its log's name."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.scripts = folder, dict[str, dict[str, Answer]]()
        self.watch, self.log, self.forks = Watch(), list[str](), list[Lineage]()
        self.broken: str | None = None
        """Workers whose log's name holds it cannot be started."""
        monkeypatch.setenv("CNNBENCH_CACHE", str(folder / "cache"))
        monkeypatch.setattr(machine, "usable_threads", lambda: 1)
        monkeypatch.setattr(ForkServers, "server", lambda servers, lineage: self.forks.append(lineage))
        monkeypatch.setattr(ForkServers, "start", lambda servers, lineage, log: self._start(log))
        monkeypatch.setattr(ForkServers, "fork", lambda servers, lineage, log: self._start(log))

    def _start(self, log: Path) -> Worker:
        if self.broken and self.broken in log.name:
            raise WorkerError("a worker could not be started: Resource temporarily unavailable")
        script: dict[str, Answer] = {"build": FACTS, "build_step": StepFacts(nodes=9)}
        for part, more in self.scripts.items():
            script |= more if part in log.name else {}
        return ScriptedWorker(script, self.log, log.stem)

    def run(self, text: str = SUITE, budget_s: float = 60.0, resume: bool = False) -> Ended:
        @contextmanager
        def watch(total: int, finished: int) -> Iterator[Watch]:
            yield self.watch

        suite: Suite = load_suite(write_suite(self.folder, text))
        return run(suite, suite.cases, self.folder / "out", budget_s=budget_s, resume=resume, watch=watch)

    @property
    def records(self) -> dict[str, Record]:
        return read_run(self.folder / "out").records


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(tmp_path, monkeypatch)


def test_everything_is_built_before_anything_is_measured_and_each_group_launched_before_one_is_again(
    story: Story,
) -> None:
    ended = story.run()
    assert (ended.left, ended.in_time, ended.interrupted) == ([], True, False)
    ops = [line.split()[0] for line in story.log]
    assert max(place for place, op in enumerate(ops) if op.startswith("build")) < ops.index("load")
    launches = [line.rpartition(", ")[2] for line in story.watch.log]
    assert launches == ["1 launches"] * 4 + ["2 launches"] * 4
    assert {record.status for record in story.records.values()} <= {"ok", "noisy"}


@pytest.mark.parametrize(("runtime", "forks"), [("ort", 0), ("eager", 2)])
def test_a_run_of_onnx_runtime_starts_no_fork_server_of_pytorch(story: Story, runtime: str, forks: int) -> None:
    story.run(SUITE.replace("batches", f"runtimes: [{runtime}], batches"))
    assert len(set(story.forks)) == forks, "one for each launch of a case"


def test_a_model_whose_build_fails_fails_its_own_cases_only(story: Story) -> None:
    story.scripts["build-lenet5"] = {"build": -9}
    story.run()
    statuses = {id_: record.status for id_, record in story.records.items()}
    assert {id_.partition("/")[0] for id_, status in statuses.items() if status == "failed"} == {"lenet5"}
    assert all(status in ("ok", "noisy") for id_, status in statuses.items() if id_.startswith("simple_cnn"))


def test_a_users_model_that_is_wrong_ends_the_run_before_anything_is_measured_and_leaves_nothing(story: Story) -> None:
    story.scripts["build-mine"] = {"build": Failure(failure="mine: raises when it is built", is_user_error=True)}
    with pytest.raises(ModelError, match="raises when it is built"):
        story.run(SUITE.replace("[lenet5", "['mine:build'").replace("batches", "precisions: [amp-fp16, fp32], batches"))
    assert not any(line.startswith("load") for line in story.log)
    assert not (story.folder / "out").exists()


def test_a_worker_that_cannot_be_started_is_a_failed_case(story: Story) -> None:
    story.broken = "simple_cnn-inference-ort"
    ended = story.run()
    failed = story.records["simple_cnn/inference/ort/cpu/fp32/b1"]
    assert (failed.status, failed.measurement) == ("failed", None)
    assert "Resource temporarily unavailable" in failed.reasons[0].detail
    assert story.records["simple_cnn/inference/eager/cpu/fp32/b1"].status in ("ok", "noisy")
    assert ended.left == [failed.id]


def test_a_later_launch_that_crashes_leaves_the_earlier_one_standing(story: Story) -> None:
    closed = 0

    def second_time() -> None:
        nonlocal closed
        closed += 1
        if closed == 2:
            raise BrokenPipeError

    story.scripts["lenet5-inference-ort"] = {"close": second_time}
    story.run()
    record = story.records["lenet5/inference/ort/cpu/fp32/b1"]
    assert closed == 2
    assert record.status == "noisy"
    assert record.measurement is not None
    assert len(record.measurement.launches) == 1
    assert record.reasons[0].code == "crashed"
    assert record.reasons[0].detail.startswith("in another launch: ")


def test_a_spent_budget_leaves_groups_for_later_and_resuming_measures_the_rest(story: Story) -> None:
    ended = story.run(budget_s=1e-9)
    assert not ended.in_time
    assert 0 < len(ended.left) < 4, "the first group is measured however short the budget"
    before = story.records
    ended = story.run(resume=True)
    assert (ended.in_time, ended.left) == (True, [])
    assert {id_: story.records[id_] for id_ in before} == before


def test_an_interrupt_keeps_what_was_finished(story: Story) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    story.scripts["simple_cnn-inference-eager"] = {"open": interrupt}
    ended = story.run()
    assert (ended.interrupted, ended.empty) == (True, False)
    assert {id_.partition("/")[0] for id_ in story.records} == {"lenet5"}


def fill(story: Story, fill_disk: FillDisk, until: int) -> None:
    """The disk is full from the second finished launch on, until so many launches are finished."""
    fill_disk(lambda: 1 <= len(story.watch.log) < until)


def test_a_full_disk_loses_no_finished_record_if_there_is_room_later(story: Story, fill_disk: FillDisk) -> None:
    fill(story, fill_disk, until=6)
    ended = story.run()
    assert (ended.unwritten, ended.left) == ("", [])
    assert {len(record.launches) for record in story.records.values()} == {2}


def test_records_that_no_room_was_found_for_are_told_and_measured_by_resuming(
    story: Story, fill_disk: FillDisk
) -> None:
    fill(story, fill_disk, until=99)
    ended = story.run()
    assert len(story.watch.log) == 8, "a full disk ends no measurement"
    assert "jsonl: No space left on device; finished records are lost" in ended.unwritten
    assert len(ended.left) == 3
    with pytest.raises(RunFolderError, match="No space left on device"):
        ended.check()
    fill_disk(lambda: False)
    assert story.run(resume=True).left == []
