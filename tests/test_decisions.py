"""What a run makes of whatever its workers do, with workers that follow a script; tests/test_run.py has real ones."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest

from cnnbench import api
from cnnbench.errors import RunFolderError, WorkerError
from cnnbench.records import artifact, messages, task_messages
from cnnbench.records.input_times import InputTimes
from cnnbench.records.reason import Reason
from cnnbench.records.record import CounterResults, Memory, Parity, Ran, Record, StepFacts
from cnnbench.records.run_folder import Store, read_run
from cnnbench.report.tables import run_tables
from cnnbench.runner import machine
from cnnbench.runner import run as running
from cnnbench.runner.artifacts import Problem
from cnnbench.runner.budget import Budget
from cnnbench.runner.plan import Group
from cnnbench.runner.recorder import Recorder
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.input_plan import InputPlan
from tests import scripted
from tests.conftest import Cli, FillDisk, write_suite
from tests.records import ENVIRONMENT, case
from tests.scripted import Dies, Hangs, Says, Slowly, lenet

Runs = Callable[..., tuple[int, str, dict[str, Record]]]

INFERENCE = "defaults: {workloads: [inference], batches: [1, 4], case_budget: 0.1s}"
TRAINING = "defaults: {workloads: [training], runtimes: [eager, ort], batches: [4], case_budget: 0.1s}"
EAGER, ORT = (f"lenet5/inference/{runtime}/cpu/fp32/b4" for runtime in ("eager", "ort"))
NO_MEMORY = messages.Failure(failure="out of memory: 1 PB", is_user_error=False, out_of_memory=True)
WRONG = [Parity(what="ort b1", error=0.5, limit=1e-5)]


@pytest.fixture
def run(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """`run(defaults, *script)` runs a suite of LeNet-5: exit code, what was said, records by id."""

    def call(
        defaults: str,
        *script: Says,
        models: str = "[lenet5]",
        launches: int = 1,
        limit: str = "1m",
        options: str = "",
    ) -> Any:
        monkeypatch.setattr(api.Results, "write", lambda results: results.run.folder)  # no page, which takes a second
        scripted.use(monkeypatch, home, *script, *lenet())
        suite = write_suite(home, f"name: s\nlaunches: {launches}\nlimit: {limit}\n{defaults}\nmodels: {models}\n")
        done = cli("run", suite, "--out", "out", *options.split())
        assert "Traceback" not in done.stderr
        assert not done.stderr.startswith("error: "), done.stderr
        return done.returncode, done.stdout + done.stderr, read_run(home / "out").records

    return call


def test_workers_that_do_well_give_records_of_all_cases(run: Runs) -> None:
    code, said, found = run(INFERENCE)
    assert code == 0, said
    assert len(found) == 4
    assert {record.status for record in found.values()} <= {"ok", "noisy"}
    assert found[EAGER].group == found[ORT].group
    assert found[EAGER].group != found[EAGER.replace("b4", "b1")].group


@pytest.mark.parametrize("op", ["load", "open", "warm", "sample", "close"])
@pytest.mark.parametrize(
    ("fate", "why", "reason", "limit"),
    [
        (Dies("SIGKILL"), "crashed", "killed by SIGKILL, as the system does when memory runs out", "1m"),
        (Hangs(), "hung", "no answer within 3 s", "3s"),
        (
            NO_MEMORY,
            "out-of-memory",
            "out of memory: 1 PB",
            "1m",
        ),
    ],
    ids=["dies", "hangs", "fails"],
)
def test_a_worker_that_fails_at_any_moment_fails_its_case_alone(
    run: Runs, op: str, fate: Any, why: str, reason: str, limit: str
) -> None:
    code, _, found = run(INFERENCE, Says(op, fate, runtime="ort", batch=4), limit=limit)
    assert code == 3
    assert reason in found[ORT].reasons[0].detail
    assert (found[ORT].status, found[ORT].reasons[0].code) == ("failed", why)
    others = {record.status for id_, record in found.items() if id_ != ORT}
    assert len(found) == 4
    assert others <= {"ok", "noisy"}


def test_a_model_that_cannot_be_built_fails_its_cases_and_no_others(run: Runs) -> None:
    models = "[{model: lenet5, seed: 1}, lenet5]"
    code, _, found = run(INFERENCE, Says("build", Dies("SIGSEGV"), seed=1), models=models)
    assert code == 3
    failed = {id_ for id_, record in found.items() if record.status == "failed"}
    assert failed == {id_ for id_ in found if id_.endswith("/s1")}
    assert len(failed) == 4
    assert all("SIGSEGV" in found[id_].reasons[0].detail for id_ in failed)


def test_wrong_outputs_are_invalid_and_not_timed(run: Runs) -> None:
    """A worker that were asked to warm up would die."""
    opened = messages.Opened(load_s=0.1, first_call_s=0.01, parity=WRONG)
    script = [Says("open", opened, runtime="ort", batch=4), Says("warm", Dies("SIGTERM"), runtime="ort", batch=4)]
    code, _, found = run(INFERENCE, *script)
    assert code == 3
    assert (found[ORT].status, found[ORT].measurement) == ("invalid", None)
    assert found[ORT].reasons == [Reason(code="parity", detail="ort b1, error 5.0e-01, limit 1.0e-05 (relative)")]
    assert found[EAGER].status in ("ok", "noisy")


def test_of_wrong_outputs_the_layer_is_recorded_where_they_begin(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnnbench.runner.run.where_it_begins", lambda case, *_: f"begins at conv2 of {case.runtime}")
    opened = messages.Opened(load_s=0.1, first_call_s=0.01, parity=WRONG)
    _, _, found = run(INFERENCE, Says("open", opened, runtime="ort", batch=4))
    assert found[ORT].reasons[-1] == Reason(code="parity", detail="begins at conv2 of ort")
    assert found[EAGER].reasons == []
    assert any("begins at conv2 of ort" in note for table in run_tables(read_run(Path("out"))) for note in table.notes)


def test_of_a_wrong_step_the_first_wrong_gradient_is_recorded_and_on_the_page(run: Runs) -> None:
    begins = "ort, the first wrong gradient going backwards, conv2.weight"
    wrong = [Parity(what="ort, parameters after 1 step, worst conv1.weight", error=0.3, limit=0.01)]
    wrong.append(Parity(what=begins, error=0.2, limit=0.01))
    _, _, found = run(
        TRAINING, Says("open", messages.Opened(load_s=0.1, first_call_s=0.01, parity=wrong), runtime="ort")
    )
    record = found["lenet5/training/ort/cpu/fp32/b4"]
    detail = f"{begins}, error 2.0e-01, limit 1.0e-02 (relative)"
    assert (record.status, record.reasons[-1]) == ("invalid", Reason(code="parity", detail=detail))
    assert any(detail in note for table in run_tables(read_run(Path("out"))) for note in table.notes)


@pytest.mark.parametrize(
    ("parity", "faults", "reason"),
    [
        (WRONG, [], "parity: ort b1"),
        ([], [Reason(code="layout", detail="channels_last was lost")], "layout: channels_last was lost"),
    ],
)
def test_what_is_found_wrong_after_timing_makes_it_invalid(
    run: Runs, parity: list[Parity], faults: list[Reason], reason: str
) -> None:
    memory = Memory(imported_bytes=1, loaded_bytes=2, peak_bytes=3)
    ran = Ran(device="cpu", device_name="CPU", threads=2, precision="fp32")
    closed = messages.Closed(parity=parity, memory=memory, ran=ran, faults=faults)
    code, _, found = run(INFERENCE, Says("close", closed, runtime="ort"))
    assert code == 3
    assert found[ORT].status == "invalid"
    assert str(found[ORT].reasons[0]).startswith(reason)
    assert found[EAGER].status in ("ok", "noisy")


def test_a_graph_that_cannot_be_exported_makes_onnx_runtime_alone_unavailable(run: Runs) -> None:
    code, _, found = run(INFERENCE, *lenet(onnx_error="aten.odd is unknown", onnx_bytes=None))
    assert code == 0
    assert found[ORT].reasons == [Reason(code="not-exportable", detail="aten.odd is unknown")]
    assert {found[id_].status for id_ in found if "/eager/" in id_} <= {"ok", "noisy"}


def test_counters_that_disagree_make_every_case_invalid(run: Runs) -> None:
    wrong = CounterResults(closed_form={"conv1": (156, 9)}, counted={"module": {"conv1": (157, 0)}})
    code, _, found = run(INFERENCE, *lenet(counters=wrong))
    assert code == 3
    assert {record.status for record in found.values()} == {"invalid"}
    assert found[EAGER].reasons[0].code == "counts"


def test_a_step_that_cannot_be_exported_is_unavailable_and_names_the_operator(run: Runs) -> None:
    step = StepFacts(error="no gradient rule for aten.odd.default in conv1")
    code, said, found = run(TRAINING, Says("build_step", step))
    assert code == 0, said  # no case failed: there is nothing here that could run it
    eager, ort = (found[f"lenet5/training/{runtime}/cpu/fp32/b4"] for runtime in ("eager", "ort"))
    assert eager.status in ("ok", "noisy")
    assert ort.status == "unavailable"
    assert ort.reasons == [Reason(code="not-exportable", detail="no gradient rule for aten.odd.default in conv1")]


def test_a_wrong_step_is_invalid_and_not_timed(run: Runs) -> None:
    losses = Parity(what="ort losses", error=0.3, limit=1e-3)
    opened = messages.Opened(load_s=0.1, first_call_s=0.01, parity=[losses])
    script = [Says("open", opened, runtime="ort"), Says("warm", Dies("SIGTERM"), runtime="ort")]
    code, _, found = run(TRAINING, *script)
    record = found["lenet5/training/ort/cpu/fp32/b4"]
    assert (code, record.status, record.measurement) == (3, "invalid", None)
    assert str(record.reasons[0]).startswith("parity: ort losses")
    assert record.step is not None
    assert record.step.losses


def test_a_device_that_does_not_work_is_told_in_records_and_fails_nothing(run: Runs) -> None:
    devices = INFERENCE.replace("case_budget", "devices: [cpu, cuda], case_budget")
    code, said, found = run(devices, Says("probe", task_messages.Probed(works=False, reason="no driver")))
    assert code == 0, said
    absent = [record for id_, record in found.items() if "/cuda/" in id_]
    assert [(record.status, record.reasons[0].code) for record in absent] == [("unavailable", "no-device")] * 4
    assert all(str(record.reasons[0]).endswith("on cuda: no driver") for record in absent)


def test_a_device_that_works_is_named_in_the_environment_and_its_cases_are_measured(run: Runs, home: Path) -> None:
    devices = INFERENCE.replace("case_budget", "devices: [cuda], case_budget")
    ran = Ran(device="cuda", device_name="NVIDIA Test", threads=2, precision="fp32")
    memory = Memory(imported_bytes=1, loaded_bytes=2, peak_bytes=3)
    closed = messages.Closed(parity=[], memory=memory, ran=ran, faults=[])
    script = [Says("probe", task_messages.Probed(works=True, name="NVIDIA Test")), Says("close", closed)]
    code, said, found = run(devices, *script)
    assert code == 0, said
    assert {record.status for record in found.values()} <= {"ok", "noisy"}
    environment = json.loads((home / "out" / "environment.json").read_text())
    assert environment["accelerators"] == {"cuda": "NVIDIA Test"}


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (messages.Failure(failure="own_models:works raises", is_user_error=True), "own_models:works raises"),
    ],
)
def test_a_users_model_that_is_wrong_is_told_before_anything_is_measured(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, failure: messages.Failure, message: str
) -> None:
    scripted.use(monkeypatch, home, Says("build", failure, model="own_models:works"), *lenet())
    done = cli("run", write_suite(home, 'models: [lenet5, "own_models:works"]'), "--out", "out")
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: {message}"
    assert not (home / "out").exists()


def test_a_spent_budget_leaves_cases_for_later_and_says_so(run: Runs) -> None:
    slow = Says("load", Slowly(0.7, messages.Loaded(import_s=0.5)))
    code, said, found = run(INFERENCE, slow, options="--budget 0.5s")
    assert code == 3
    assert "the budget was spent with 2 of 4 cases left" in said
    assert len(found) == 2


def test_what_seemed_too_late_to_build_is_built_when_the_rest_took_less_than_it_seemed(
    run: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    guesses = iter([False])
    has_time_for = Budget.has_time_for

    def guess(budget: Budget, groups: Any, *, alone: bool = False) -> bool:
        return next(guesses, True) if alone else has_time_for(budget, groups)

    monkeypatch.setattr(Budget, "has_time_for", guess)
    code, said, found = run(INFERENCE, models="[lenet5, {model: lenet5, classes: 7}]")
    assert code == 0, said
    assert len(found) == 8
    assert all(record.measurement for record in found.values())
    assert next(guesses, None) is None


def test_a_record_depends_on_the_files_that_were_there_before_anything_was_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests, kept = iter(["old", "new"]), list[Any]()
    monkeypatch.setattr(artifact, "depends_on", lambda case: next(digests))
    of = Case.from_id(ORT)
    recorder = Recorder([of], cast(Store, SimpleNamespace(append=kept.append)), ENVIRONMENT, Mock())
    for _ in range(2):
        recorder.leave_out(of, Problem("failed", Reason(code="crashed")))
    assert [record.depends for record in kept] == ["old", "old"]


def test_what_was_finished_before_an_interrupt_is_kept_and_resume_measures_only_the_rest(
    run: Runs, cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Store.append

    def interrupted(store: Store, record: Any) -> None:
        append(store, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", interrupted)
        code, said, before = run(INFERENCE)
    assert code == 130
    assert "interrupted with 3 of 4 cases left" in said
    assert "--resume" in said
    assert len(before) == 1
    code, _, after = run(INFERENCE, options="--resume")
    assert code == 0
    assert len(after) == len((home / "out" / "records.jsonl").read_text().splitlines()) == 4
    assert {id_: after[id_] for id_ in before} == before
    assert cli("run", "suite.yaml", "--out", "out").returncode == 2


@pytest.mark.parametrize(("launches", "wide"), [(1, True), (3, True), (3, False)])
def test_what_is_left_of_the_budget_goes_to_further_launches_of_the_groups_that_are_wide(
    run: Runs, home: Path, launches: int, wide: bool
) -> None:
    times = [messages.Sampled(seconds={"forward": [0.01 * (1 + wide * (number % 7))]}) for number in range(100)]
    code, said, found = run(INFERENCE, Says("sample", *times, batch=4), launches=launches)
    assert code == 0, said
    made = {id_: record.measurement.launches for id_, record in found.items() if record.measurement}
    assert len(made) == 4
    assert {id_: len(each) for id_, each in made.items()} == {
        id_: launches if wide and id_ in (EAGER, ORT) else 1 for id_ in made
    }
    groups = [[launch.group for launch in made[id_]] for id_ in (EAGER, ORT)]
    assert groups[0] == groups[1]  # measured together, each time
    assert len(set(groups[0])) == len(groups[0])
    lines = (home / "out" / "records.jsonl").read_text().splitlines()
    assert len(lines) == sum(map(len, made.values()))  # written after each launch


def test_a_finished_case_is_measured_again_when_what_it_depends_on_has_changed(run: Runs, home: Path) -> None:
    both = {"models": "['own_models:works', lenet5]"}
    defaults = INFERENCE.replace("case_budget", "image_size: 28, case_budget")
    assert run(defaults, **both)[0] == 0
    lines = (home / "out" / "records.jsonl").read_text().splitlines()
    assert run(defaults, **both, options="--resume")[0] == 0
    assert (home / "out" / "records.jsonl").read_text().splitlines() == lines
    model = home / "own_models.py"
    model.write_text(model.read_text().replace("nn.Conv2d(3, 8, 3, bias=False)", "nn.Conv2d(3, 8, 5, bias=False)"))
    code, said, _ = run(defaults, **both, options="--resume")
    assert code == 0
    assert "[5/8] " in said, "the other four are finished"
    assert "[9/8] " not in said
    again = (home / "out" / "records.jsonl").read_text().splitlines()
    assert again[: len(lines)] == lines
    assert {json.loads(line)["case"]["spec"]["model"] for line in again[len(lines) :]} == {"own_models:works"}
    assert len(again) == len(lines) + 4


def test_an_artifact_of_a_users_own_model_is_not_kept(run: Runs, home: Path) -> None:
    defaults = INFERENCE.replace("case_budget", "image_size: 28, case_budget")
    assert run(defaults, models="['own_models:works', lenet5]")[0] == 0
    assert [path.name.partition("-")[0] for path in (home / "cache" / "artifacts").glob("[!.]*")] == ["lenet5"]


def test_what_was_measured_on_another_machine_is_measured_again_and_the_run_names_this_one(
    run: Runs, home: Path
) -> None:
    """Before, a run that was copied and gone on with mixed machines, and one after an upgrade named the old torch."""
    assert run(INFERENCE)[0] == 0
    out = home / "out"
    here = read_run(out).environment
    assert here is not None
    for name in ("shared.jsonl", "environment.json"):
        text = (out / name).read_text()
        there = text.replace(here.machine.cpu, "Another CPU")
        (out / name).write_text(there.replace(str(here.software["torch"]), "1.0.0"))
    lines = (out / "records.jsonl").read_text()
    shared = (out / "shared.jsonl").read_text()
    digest = next(each["digest"] for each in map(json.loads, shared.splitlines()) if "environment" in each)
    for name, text in (("records.jsonl", lines), ("shared.jsonl", shared)):  # content and digest belong together
        (out / name).write_text(text.replace(digest, "f" * len(digest)))
    code, _, found = run(INFERENCE, options="--resume")
    assert code == 0
    assert all(record.environment and record.environment.machine == here.machine for record in found.values())
    now = read_run(out).environment
    assert now is not None
    assert (now.machine.cpu, now.software["torch"]) == (here.machine.cpu, here.software["torch"])


def test_a_full_disk_in_the_middle_is_one_line_with_the_answer_and_exit_code_3(
    cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, fill_disk: FillDisk
) -> None:
    scripted.use(monkeypatch, home, *lenet())
    records = home / "out" / "records.jsonl"
    fill_disk(lambda: records.exists() and records.read_bytes().count(b"\n") > 1)  # from the second record on
    suite = write_suite(home, f"name: s\nlaunches: 1\n{INFERENCE}\nmodels: [lenet5]\n")
    done = cli("run", suite, "--out", "out")
    assert done.returncode == 3
    assert "jsonl: No space left on device; finished records are lost: make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert "lenet5, inference in PyTorch; 1 case" in " ".join(done.stdout.split()), "the answer comes before"


# --- single steps of a run, between parts that only say what they are asked ---


def step(cls: type[running._Session] = running._Session, **parts: Any) -> Any:
    """A run's steps with these parts, whose budget is not spent."""
    usual = dict.fromkeys(("suite", "store", "observer", "artifacts", "servers", "recorder", "evaluator"))
    budget = SimpleNamespace(
        left_s=100.0, budget_s=200.0, until_overdrawn_s=120.0, is_over=False, remaining_s=lambda: 7.0
    )
    observer = SimpleNamespace(doing=lambda what, left_s: None)
    store = SimpleNamespace(folder=Path("out"), logs=Path("out/logs"))
    return cls(**{**usual, "budget": budget, "observer": observer, "store": store, **parts})


@pytest.mark.parametrize(
    ("left_s", "after_s", "goes_on"),
    [(100.0, 80.1, True), (100.0, 80.0, False), (10.0, 0.1, True), (10.0, 0.0, False)],
)
def test_models_are_profiled_for_a_tenth_of_the_budget_and_no_longer_than_it_lasts(
    monkeypatch: pytest.MonkeyPatch, left_s: float, after_s: float, goes_on: bool
) -> None:
    asked: list[Any] = []
    told: list[tuple[str, float]] = []
    monkeypatch.setattr(running, "read_profiles", lambda folder: ([SimpleNamespace(model="known")], []))
    monkeypatch.setattr(running, "profile_models", lambda *words, leave_out: asked.append((*words, leave_out)))
    session = step(
        recorder=SimpleNamespace(call_s=lambda: "times"),
        artifacts="artifacts",
        servers="servers",
        observer=SimpleNamespace(doing=lambda *words: told.append(words)),
    )
    session.budget.left_s = left_s
    session.add_profiles()
    ((folder, call_s, artifacts, servers, go_on, leave_out),) = asked
    assert (folder, call_s, artifacts, servers, leave_out) == (Path("out"), "times", "artifacts", "servers", {"known"})
    session.budget.left_s = after_s
    assert go_on("lenet5", 0, 1) == goes_on
    assert told == [("lenet5: profiling its layers", 7.0)]


@pytest.mark.parametrize(
    ("left_s", "known", "written"),
    [
        (67.0, [], ["new cpu 2"]),
        (66.0, [], []),
        (66.0, ["cpu"], ["old cpu 2"]),
        (441.0, [], ["new cpu 2", "new cuda 4"]),
    ],
)
def test_peaks_are_those_that_are_known_or_measured_where_they_take_little_of_what_is_left(
    monkeypatch: pytest.MonkeyPatch, left_s: float, known: list[str], written: list[str]
) -> None:
    """Of a CPU in about 10 s, of a CUDA device in 66 s; 15 % of what is left."""
    found: list[str] = []

    def look(device: str, threads: int, environment: Any) -> str | None:
        assert environment is ENVIRONMENT
        return f"old {device} {threads}" if device in known else None

    def measure(device: str, threads: int, environment: Any, logs: Path, *, anew: bool) -> str:
        assert (environment, logs, anew) == (ENVIRONMENT, Path("out/logs"), True)
        return f"new {device} {threads}"

    monkeypatch.setattr(running, "peaks_for", lambda cases: [("cpu", 2), ("cuda", 4)])
    monkeypatch.setattr(running, "known_peaks", look)
    monkeypatch.setattr(running, "peaks_of", measure)
    monkeypatch.setattr(running, "write_peaks", lambda folder, peaks: found.extend(peaks))
    session = step()
    session.budget.left_s = left_s
    session.add_peaks(ENVIRONMENT, [])
    assert found == written

    def broken(*_: Any, **__: Any) -> str:
        raise WorkerError("no memory")

    monkeypatch.setattr(running, "peaks_of", broken)
    session.add_peaks(ENVIRONMENT, [])  # they are unknown, and nothing ends for it
    assert len(found) == len(written) + len(known)


def test_the_input_is_measured_once_for_the_device_of_the_first_training_case(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, other = InputPlan(data="shapes"), InputPlan(data="shapes", workers=[7])
    times = InputTimes(plan=plan, device="cpu", started="2026-11-25T10:00:00+00:00")
    asked: list[Any] = []
    known: list[Any] = [None]
    monkeypatch.setattr(machine, "usable_threads", lambda: 5)
    monkeypatch.setattr(running, "read_input", lambda folder: known[0])
    monkeypatch.setattr(running, "write_input", lambda folder, found: asked.append((folder, found)))
    monkeypatch.setattr(running, "measure_input", lambda *words: words)
    session = step(suite=SimpleNamespace(input=plan))
    inference = case().model_copy(update={"threads": 2})
    training = case(workload="training", device="cuda").model_copy(update={"threads": 3})
    for cases, device, threads in (([inference, training], "cuda", 3), ([inference], "cpu", 2), ([], "cpu", 5)):
        asked.clear()
        session.add_input(cases)
        assert asked == [(Path("out"), (plan, device, threads, Path("out/logs")))]
    for already, count in (
        (times, 0),
        (times.model_copy(update={"failure": "no file"}), 1),
        (times.model_copy(update={"plan": other}), 1),
    ):
        asked.clear()
        known[0] = already
        session.add_input([])
        assert len(asked) == count
    asked.clear()
    known[0] = None
    session.budget.is_over = True
    session.add_input([])
    session.budget.is_over = False
    step(suite=SimpleNamespace(input=None)).add_input([])
    assert asked == []


class Launching(running._Session):
    """Whose launches are only written down, and in which cases of ONNX Runtime cannot be run."""

    def leave_out(self, case: Case) -> bool:
        return case.runtime == "ort"

    def launch(self, group: Group) -> None:
        self.observer.append(group[0].batch)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("over_after", "too_long", "launched", "reached_all"),
    [
        (9, {1}, [1, 2, 3, 4], True),  # the first in any case
        (9, {2, 4}, [1, 3], False),
        (0, {1}, [1], False),
        (2, set(), [1, 2], False),
        (4, set(), [1, 2, 3, 4], True),
    ],
)
def test_the_first_group_is_launched_in_any_case_and_others_while_they_fit(
    over_after: int, too_long: set[int], launched: list[int], reached_all: bool
) -> None:
    done: list[int] = []

    class Spent:
        first: list[Group] = []
        is_over = property(lambda budget: len(done) >= over_after)
        fits = staticmethod(lambda group: group[0].batch not in too_long)

    budget = Spent()
    cases = [case(runtime, batch=batch) for batch in (1, 2, 3, 4) for runtime in ("eager", "ort")]
    assert step(Launching, observer=done, budget=budget).launch_each(cases) == reached_all
    assert done == launched
    assert budget.first == [(case(batch=batch),) for batch in (1, 2, 3, 4)]


def test_where_outputs_part_is_looked_for_while_there_is_time_and_kept_where_it_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    kept: list[Any] = []
    wrong = [case(batch=batch) for batch in range(1, 6)]

    def begins(of: Case, folder: Path, logs: Path) -> str | None:
        asked.append((of.batch, folder, logs))
        session.budget.is_over = of.batch == 4
        if of.batch == 2:
            raise WorkerError("crashed")
        return None if of.batch == 3 else "begins at conv1"

    monkeypatch.setattr(running, "where_it_begins", begins)
    built = SimpleNamespace(folder=Path("artifact"))
    session = step(
        recorder=SimpleNamespace(wrong=lambda: wrong, explain=lambda *words: kept.append(words)),
        artifacts=SimpleNamespace(wanted=lambda spec: spec, find=lambda wanted: built),
    )
    session.explain_parity()
    assert asked == [(batch, Path("artifact"), Path("out/logs")) for batch in (1, 2, 3, 4)]
    assert kept == [(wrong[0], "begins at conv1", built), (wrong[3], "begins at conv1", built)]


def test_test_images_are_classified_once_by_what_was_timed_and_names_them() -> None:
    one, two, three = cases = [case(batch=batch) for batch in (1, 2, 3)]
    kept: list[Any] = []
    recorder = SimpleNamespace(
        awaits_evaluation=lambda case: case is not two, evaluated=lambda *words: kept.append(words)
    )
    tests = {one.id: SimpleNamespace(data="shapes"), two.id: SimpleNamespace(data="shapes")}
    evaluator = SimpleNamespace(evaluate=lambda *words: words)
    session = step(suite=SimpleNamespace(tests=tests), recorder=recorder, evaluator=evaluator)
    session.evaluate(tuple(cases), "built")
    assert kept == [(one, (one, tests[one.id], "built", 120.0), "built")]
    assert three.id not in tests


def test_references_are_learnt_of_models_that_are_built_here_and_ran_in_torch() -> None:
    learnt: list[Any] = []
    seconds = {
        "a:b": {"reference": 2.0},
        "c:d": {},
        "e:f": None,
        "net.onnx": {"reference": 3.0},
        "g:h": {"reference": 0.0},
    }
    specs = [ModelSpec(model=name) for name in seconds]

    def find(wanted: ModelSpec) -> Any:
        known = seconds[wanted.model]
        return SimpleNamespace(facts=None if known is None else SimpleNamespace(seconds=known))

    budget = SimpleNamespace(learn_references=learnt.append)
    step(artifacts=SimpleNamespace(find=find), budget=budget)._learn_references({spec: spec for spec in specs})
    assert learnt == [{specs[0]: 2.0}]


def test_a_case_without_a_problem_is_not_left_out() -> None:
    problem: list[Any] = [None]
    written: list[Any] = []
    built = SimpleNamespace(problem=lambda case: problem[0])
    session = step(
        artifacts=SimpleNamespace(wanted=lambda *_: None, find=lambda _: built),
        recorder=SimpleNamespace(leave_out=lambda *words: written.append(words)),
    )
    assert not session.leave_out(case())
    assert written == []
    problem[0] = "why"
    assert session.leave_out(case())
    assert written == [(case(), "why", built)]


@pytest.mark.parametrize(("remaining_s", "asked"), [(179.0, []), (180.0, ["peaks 1", "profiles"])])
def test_a_run_of_three_minutes_has_peaks_and_profiles(
    run: Runs, monkeypatch: pytest.MonkeyPatch, remaining_s: float, asked: list[str]
) -> None:
    found: list[str] = []
    monkeypatch.setattr(Budget, "remaining_s", lambda budget: remaining_s)
    monkeypatch.setattr(running._Session, "add_peaks", lambda session, _, cases: found.append(f"peaks {len(cases)}"))
    monkeypatch.setattr(running._Session, "add_profiles", lambda session: found.append("profiles"))
    code, said, _ = run(INFERENCE.replace("[1, 4]", "[1], runtimes: [ort]"))
    assert code == 0, said
    assert found == asked


def test_the_end_of_a_run_raises_what_its_user_has_to_know() -> None:
    def ended(**about: Any) -> running.Ended:
        return running.Ended(**{"left": [], "in_time": True, "interrupted": False, "empty": False, **about})

    ended().check()
    with pytest.raises(RunFolderError, match="no room"):
        ended(unwritten="no room").check()
    with pytest.raises(KeyboardInterrupt):
        ended(interrupted=True, unwritten="no room").check()
