"""Training on several ranks: cases, what a report makes of them, and real ranks whose gradients are one rank's."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cnnbench.analysis.scaling import scalings
from cnnbench.errors import InputError, SuiteError, WorkerError
from cnnbench.records.record import AllReduce, Ran, Ranks, Record
from cnnbench.records.run_folder import Run, read_run
from cnnbench.report.scaling import scaling_table
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.load import load_suite
from cnnbench.suite.runtimes import cannot
from tests.conftest import ROOT, Cli, write_suite
from tests.records import record

LENET = "lenet5/training/eager/cpu/fp32/b8/r2/t1"
PARAMS = 44_426


def test_ranks_are_an_axis_of_training_cases_in_eager(tmp_path: Path) -> None:
    suite = "models: [lenet5]\ndefaults: {runtimes: [eager], batches: [8], ranks: [1, 2], threads: 1, classes: 10}\n"
    ids = [case.id for case in load_suite(write_suite(tmp_path, suite)).cases]
    assert ids == [
        "lenet5/inference/eager/cpu/fp32/b8/t1",
        "lenet5/training/eager/cpu/fp32/b8/t1",
        LENET,
    ]
    case = Case.from_id(LENET)
    assert (case.ranks, case.images, case.id) == (2, 16, LENET)
    assert case.group_key == Case.from_id(ids[1]).group_key
    assert case.work_key != Case.from_id(ids[1]).work_key
    assert not case.is_reference
    assert cannot("eager", "training", "cpu", "fp32", "nchw", ranks=2) is None
    assert cannot("ort", "training", "cpu", "fp32", "nchw", ranks=2) == "ort trains on one rank alone"


def test_ranks_that_cannot_be_are_refused_where_they_stand(tmp_path: Path) -> None:
    suite = "models: [lenet5]\ndefaults:\n  workloads: [training]\n  ranks: [1, 2]\n"
    with pytest.raises(SuiteError, match=r"suite.yaml:4: defaults.ranks: expected `threads` beside it"):
        load_suite(write_suite(tmp_path, suite))
    with pytest.raises(InputError, match="inference has one rank"):
        Case.from_id("lenet5/inference/eager/cpu/fp32/b8/r2/t1")
    with pytest.raises(InputError, match="expected `threads`"):
        Case.from_id("lenet5/training/eager/cpu/fp32/b8/r2")


def trained(ranks: int, step_s: float, apart_s: float | None = None) -> Record:
    """A record of LeNet's step; measured without its all-reduce too if that is given."""
    made = record(Case.from_id(LENET).model_copy(update={"ranks": ranks}), [step_s] * 8)
    if apart_s is None:
        return made
    sizes = {10**6: 1e-3, 25 * 10**6: 5e-3, 100 * 10**6: 40e-3}
    all_reduces = [AllReduce(bytes=size, seconds=[9.0, seconds, seconds]) for size, seconds in sizes.items()]
    found = Ranks(count=ranks, backend="gloo", all_reduces=all_reduces, step_s=[step_s] * 5, apart_s=[apart_s] * 5)
    ran = Ran(device="cpu", device_name="cpu", threads=1, precision="fp32", ranks=found)
    assert made.measurement is not None
    launches = [launch.model_copy(update={"ran": ran}) for launch in made.launches]
    return made.model_copy(update={"measurement": made.measurement.model_copy(update={"launches": launches})})


def run_of(*records: Record) -> Run:
    return Run(Path("r"), "s", "?", None, {each.id: each for each in records})


@pytest.mark.parametrize("ranks", [2, 4])
def test_efficiency_traffic_and_exposed_communication(ranks: int) -> None:
    """Figures by hand: each rank sends 2 (N - 1) / N of 4 bytes a parameter; the fastest all-reduce is of 25 MB."""
    (found,) = scalings(run_of(trained(1, 0.012), trained(ranks, 0.016, 0.013)))
    share = {2: 1.0, 4: 1.5}[ranks]
    assert found.efficiency.value == pytest.approx(0.75)
    assert found.gradient_bytes == 4 * PARAMS
    assert found.traffic_bytes == share * 4 * PARAMS
    assert found.bytes_per_s == pytest.approx(share * 25e6 / 5e-3)
    assert found.lower_bound_s == pytest.approx(4 * PARAMS / (25e6 / 5e-3))
    assert found.exposed_s == pytest.approx(0.003)
    assert found.longer_s == pytest.approx(0.004)


def test_a_median_stands_for_what_ranks_measured_several_times() -> None:
    (found,) = scalings(run_of(trained(1, 0.012), trained(2, 0.016, 0.013)))
    assert found.ranks is not None
    steps = found.ranks.model_copy(update={"step_s": [0.02, 0.05, 0.03], "apart_s": [0.01, 0.01, 0.027]})
    assert replace(found, ranks=steps).exposed_s == pytest.approx(0.01)  # of 10, 40 and 3 ms
    nothing = found.ranks.model_copy(update={"step_s": [], "apart_s": [], "all_reduces": []})
    unknown = replace(found, ranks=nothing)
    assert (unknown.exposed_s, unknown.bytes_per_s, unknown.lower_bound_s) == (None, None, None)
    assert replace(found, gradient_bytes=None).lower_bound_s is None


def test_a_step_is_timed_over_all_launches_and_tells_of_its_ranks_with_the_last() -> None:
    one, two = trained(1, 0.012), trained(2, 0.016, 0.013)
    (first,), (last,) = trained(2, 0.02).launches, two.launches
    assert two.measurement is not None
    both = two.model_copy(update={"measurement": two.measurement.model_copy(update={"launches": [first, last, last]})})
    (found,) = scalings(run_of(one, both))
    assert last.ran is not None
    assert (found.ranks, found.alone) == (last.ran.ranks, one)
    assert found.step_s == pytest.approx(0.016)
    none = both.model_copy(update={"measurement": two.measurement.model_copy(update={"launches": [last, first]})})
    assert [each.ranks for each in scalings(run_of(one, none))] == [None]
    failed = both.model_copy(update={"status": "failed"})
    assert scalings(run_of(one, failed)) == []


def test_the_gradients_of_a_head_are_its_own() -> None:
    made = [
        each.model_copy(update={"case": each.case.model_copy(update={"trainable": "head"})})
        for each in (trained(1, 0.012), trained(2, 0.016))
    ]
    (found,) = scalings(run_of(*made))
    assert found.gradient_bytes == 4 * (84 + 1) * 10  # the last of LeNet's layers
    assert scalings(run_of(made[0], trained(2, 0.016))) == [], "the other trains all"
    large = made[1].case.spec.model_copy(update={"image_size": (4, 4)})
    refused = [
        each.model_copy(update={"case": each.case.model_copy(update={"spec": large, "trainable": "all"})})
        for each in made
    ]
    assert [each.gradient_bytes for each in scalings(run_of(*refused))] == [4 * PARAMS], "as they were counted"


def test_a_sentence_says_where_the_time_goes() -> None:
    table = scaling_table(scalings(run_of(trained(1, 0.012), trained(2, 0.016, 0.0125))))
    (note,) = table.notes
    assert "2 ranks train 1.50 times as many images a second as one" in note
    assert "a step takes 4.00 ms (25 %) longer; 3.50 ms of that is exposed communication" in note
    assert "its 0.178 MB take 0.0355 ms at least; measured 1.00 GB/s at 1 MB, 5.00 GB/s at 25 MB" in note
    assert "0.500 ms is slower computing" in note
    assert scalings(run_of(trained(2, 0.016, 0.013))) == []
    (faster,) = scaling_table(scalings(run_of(trained(1, 0.012), trained(2, 0.011, 0.01)))).notes
    assert "no longer than on one rank" in faster


def test_what_is_not_known_of_ranks_is_none() -> None:
    """A user's own model has no formula: its parameters were counted, but not which of them are trained."""
    counted = trained(2, 0.016)
    own = counted.case.spec.model_copy(update={"model": "mine:build"})
    for trainable, gradient_bytes in (("all", 4 * PARAMS), ("head", None)):
        case = counted.case.model_copy(update={"spec": own, "trainable": trainable})
        records = [
            each.model_copy(update={"case": case.model_copy(update={"ranks": each.case.ranks})})
            for each in (trained(1, 0.012), counted)
        ]
        (found,) = scalings(run_of(*records))
        assert (found.gradient_bytes, found.traffic_bytes) == (gradient_bytes, gradient_bytes)
        assert (found.bytes_per_s, found.lower_bound_s, found.exposed_s) == (None, None, None)


GRADIENTS = """
import os, sys
import numpy as np
from torch import distributed
from cnnbench.records.messages import Open
from cnnbench.suite.case import Case
from cnnbench.worker.rank import Rank

rank = int(os.environ["RANK"])
distributed.init_process_group("gloo")
one = Rank(Open(case=Case.from_id(sys.argv[1]), folder=sys.argv[2]), 1, rank, 2)
for name in ("forward", "backward"):
    one.phases[name]()
gradients = {name: p.grad.numpy() for name, p in one.module.named_parameters()}
np.savez(f"{sys.argv[3]}/{rank}.npz", **gradients)
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_gradients_of_two_ranks_are_one_ranks_at_twice_the_batch(
    tmp_path: Path, artifact_of: Callable[[ModelSpec], Path]
) -> None:
    """And not those of either rank's own batch."""
    import torch

    from cnnbench.worker.reference.parity import labels_for, open_artifact, tiled
    from cnnbench.worker.runtimes.eager import EagerTraining

    case = Case.from_id(LENET)
    folder = artifact_of(ModelSpec(model="lenet5", image_size=(28, 28), classes=10))
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    words += ["--nproc-per-node", "2", str(script), LENET, str(folder), str(tmp_path)]
    variables = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(words, check=True, env=variables, timeout=200)

    def alone(batch: int) -> dict[str, torch.Tensor]:
        facts, (images, _) = open_artifact(folder)
        one = case.model_copy(update={"ranks": 1, "batch": batch})
        training = EagerTraining(one, facts, folder, tiled(images, batch), 1)
        assert np.array_equal(training.labels.numpy(), labels_for(batch, 10, 0))
        phases = training.phases()
        phases["forward"]()
        phases["backward"]()
        return {name: p.grad for name, p in training.module.named_parameters() if p.grad is not None}

    whole, half = alone(16), alone(8)
    for rank in (0, 1):
        found = np.load(tmp_path / f"{rank}.npz")
        assert set(found.files) == set(whole)
        for name, gradient in whole.items():
            scale = float(gradient.abs().max())
            np.testing.assert_allclose(found[name], gradient.numpy(), rtol=1e-4, atol=1e-5 * scale)
        assert any(np.abs(found[name] - half[name].numpy()).max() > 1e-2 * half[name].abs().max() for name in half)


@pytest.mark.slow
def test_two_ranks_are_measured_beside_one(tmp_path: Path, cli: Cli) -> None:
    settings = (
        "{workloads: [training], runtimes: [eager, ort], batches: [8], ranks: [1, 2], threads: 1, case_budget: 1s}"
    )
    suite = write_suite(tmp_path, f"models: [lenet5]\nlaunches: 1\ndefaults: {settings}\n")
    done = cli("run", suite, "--out", "out", "--tables")
    assert done.returncode == 0, done.stdout + done.stderr
    run = read_run(tmp_path / "out")
    assert run.records["lenet5/training/ort/cpu/fp32/b8/r2/t1"].status == "unavailable"
    found = run.records[LENET]
    assert found.status in ("ok", "noisy"), found.reasons
    assert found.launches[0].group == run.records["lenet5/training/eager/cpu/fp32/b8/t1"].launches[0].group
    ran = found.launches[0].ran
    assert ran is not None
    assert ran.ranks is not None
    assert (ran.ranks.count, ran.ranks.backend, ran.threads) == (2, "gloo", 1)
    assert [each.bytes for each in ran.ranks.all_reduces] == [10**6, 25 * 10**6, 10**8]
    assert "Training on several ranks" in done.stdout
    assert "exposed communication" in (tmp_path / "out" / "report.md").read_text() or "no longer than" in done.stdout


@pytest.mark.slow
def test_a_rank_that_dies_fails_its_case_with_its_last_words(
    tmp_path: Path, artifact_of: Callable[[ModelSpec], Path]
) -> None:
    from cnnbench.worker.reference.parity import open_artifact, tiled
    from cnnbench.worker.runtimes.ranked import RankedTraining

    case = Case.from_id(LENET)
    facts, (images, _) = open_artifact(artifact_of(case.spec))
    with pytest.raises(WorkerError, match=r"a rank ended: .*WorkerError: no finished artifact in"):
        RankedTraining(case, facts, tmp_path, tiled(images, 8), 1)
