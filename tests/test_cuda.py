"""What needs a CUDA device that works."""

import os
from pathlib import Path

import pytest

from cnnbench.records.record import Ran, Record
from cnnbench.records.run_folder import read_run
from cnnbench.runner.tasks.peaks import measure_peaks
from cnnbench.runner.tasks.probe import probe_all
from tests.conftest import Cli, write_suite

pytestmark = pytest.mark.cuda


@pytest.fixture(scope="module", autouse=True)
def device(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Skips, with the reason, where torch cannot use a CUDA device."""
    if not os.path.exists("/dev/nvidiactl"):
        pytest.skip("no NVIDIA driver: /dev/nvidiactl is absent")
    found = probe_all(tmp_path_factory.mktemp("logs"))[("eager", "cuda")]
    if not found.works:
        pytest.skip(found.reason)
    return found.name


def ran_of(record: Record) -> Ran:
    assert record.measurement is not None
    ran = record.measurement.launches[-1].ran
    assert ran is not None
    return ran


@pytest.mark.parametrize("runtime", ["eager", "ort"])
def test_inference_runs_on_the_device_in_ieee_float32(home: Path, cli: Cli, runtime: str) -> None:
    suite = write_suite(
        home,
        "launches: 1\nmodels: [resnet18]\n"
        f"defaults: {{workloads: [inference], runtimes: [{runtime}], devices: [cuda]}}",
    )
    assert cli("run", suite, "--out", "out").returncode == 0
    for record in read_run(home / "out").records.values():
        assert record.status in ("ok", "noisy"), record.reasons
        assert ran_of(record).device == "cuda"
        assert all(parity.passed for parity in record.parity)


def test_training_runs_on_the_device_and_tells_its_memory(home: Path, cli: Cli) -> None:
    suite = write_suite(
        home, "launches: 1\nmodels: [resnet18]\ndefaults: {workloads: [training], devices: [cuda], case_budget: 0.5s}"
    )
    assert cli("run", suite, "--out", "out").returncode == 0
    (record, *_) = read_run(home / "out").records.values()
    assert record.measurement is not None
    memory = record.measurement.launches[0].memory
    allocated, reserved, used = (
        memory.device_allocated_bytes or 0,
        memory.device_reserved_bytes or 0,
        memory.device_used_bytes or 0,
    )
    assert reserved >= allocated > 4 * 11_689_512
    # The peak is that of the timed steps, so nothing of it was returned: cuDNN's search for algorithms came before.
    assert used >= reserved


def test_the_exported_training_step_runs_on_the_device_and_tells_its_memory(home: Path, cli: Cli, device: str) -> None:
    suite = write_suite(
        home,
        "launches: 1\nmodels: [resnet18]\n"
        "defaults: {workloads: [training], runtimes: [ort], devices: [cuda], case_budget: 0.5s}",
    )
    assert cli("run", suite, "--out", "out").returncode == 0
    (record, *_) = read_run(home / "out").records.values()
    assert record.status in ("ok", "noisy"), record.reasons
    assert (ran_of(record).device, ran_of(record).device_name) == ("cuda", device)
    assert record.measurement is not None
    assert (record.measurement.launches[0].memory.device_used_bytes or 0) > 4 * 11_689_512
    assert all(parity.passed for parity in record.parity)


def test_what_the_device_can_do_is_measured_in_every_precision(device: str) -> None:
    found = measure_peaks("cuda", 1)
    assert found.device_name == device
    peaks = [found.flops_per_s(precision) for precision in ("fp32", "bf16", "fp16")]
    assert all(peak is not None and peak > 1e11 for peak in peaks), found.failures
    memory, call_s = found.memory_bytes_per_s(), found.call_s("torch", "operator")
    assert memory is not None
    assert call_s is not None
    assert memory > 1e10
    assert call_s < 1e-3


ENGINES = {
    "eager": {"fp32", "amp-fp16", "amp-bf16", "fp16", "bf16"},
    "folded": {"fp32"},
    "compile": {"fp32", "amp-bf16"},
    "compile:reduce-overhead": {"fp32"},
    "ort": {"fp32", "fp16"},
    "ort:disabled": {"fp32"},
    "ort:cuda-graph": {"fp32", "fp16"},
    "aot": {"fp32"},
    "aot:freezing": {"fp32"},
}


@pytest.mark.parametrize("runtime", ENGINES)
def test_each_engine_computes_the_same_on_the_device_in_each_precision(home: Path, cli: Cli, runtime: str) -> None:
    suite = write_suite(
        home,
        "launches: 1\nmodels: [resnet_cifar]\ndefaults: {workloads: [inference], devices: [cuda], batches: [2], "
        f"case_budget: 0.2s, runtimes: ['{runtime}'], precisions: [{', '.join(ENGINES[runtime])}]}}",
    )
    assert cli("run", suite, "--out", "out").returncode == 0
    records = read_run(home / "out").records.values()
    assert {record.case.precision for record in records} == ENGINES[runtime]
    for record in records:
        assert record.status in ("ok", "noisy"), record.reasons
        assert ran_of(record).device == "cuda"
        assert record.parity
        assert all(parity.passed for parity in record.parity)


def test_what_no_provider_computes_in_int8_is_unavailable_and_not_measured_in_float32(home: Path, cli: Cli) -> None:
    suite = write_suite(
        home,
        "launches: 1\nmodels: [lenet5]\n"
        "defaults: {workloads: [inference], runtimes: [ort], devices: [cuda], precisions: [int8]}",
    )
    cli("run", suite, "--out", "out")
    for record in read_run(home / "out").records.values():
        assert record.status == "unavailable"
        assert "no int8 convolution" in " ".join(map(str, record.reasons))


@pytest.mark.parametrize("model", ["lenet5", "mobilenet_v2"])
def test_a_step_of_every_kind_of_convolution_is_proved_on_the_device(home: Path, cli: Cli, model: str) -> None:
    suite = write_suite(
        home,
        f"launches: 1\nmodels: [{{model: {model}, image_size: {28 if model == 'lenet5' else 64}}}]\n"
        "defaults: {workloads: [training], runtimes: [eager, compile, ort], devices: [cuda], batches: [8], "
        "case_budget: 0.2s}",
    )
    assert cli("run", suite, "--out", "out").returncode == 0
    for record in read_run(home / "out").records.values():
        assert record.status in ("ok", "noisy"), record.reasons
        assert all(parity.passed for parity in record.parity)


def test_a_service_on_the_device_meets_its_bound(home: Path, cli: Cli) -> None:
    pytest.importorskip("mlperf_loadgen")
    suite = write_suite(
        home,
        "launches: 1\nmodels: [resnet_cifar]\n"
        "defaults: {workloads: [serving], runtimes: [eager, ort], devices: [cuda], case_budget: 4s}",
    )
    assert cli("run", suite, "--out", "out").returncode == 0
    for record in read_run(home / "out").records.values():
        assert record.status in ("ok", "noisy"), record.reasons
        assert ran_of(record).device == "cuda"
