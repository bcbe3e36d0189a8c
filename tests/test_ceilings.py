"""What a machine can do: the best of repetitions, kept in a run's folder, and really measured in small."""

import json
from pathlib import Path

import pytest

from cnnbench.analysis.datasheets import DATASHEETS, datasheet_of
from cnnbench.errors import RunFolderError
from cnnbench.records.peaks import PEAKS, Peaks, find_peaks, read_peaks, write_peaks
from cnnbench.report.peaks import peaks_lines, peaks_table
from cnnbench.runner.machine import last_level_cache_bytes
from cnnbench.runner.tasks import peaks as tasks
from cnnbench.runner.tasks.peaks import measure_peaks, peaks_for
from cnnbench.suite.case import Case, Device, ModelSpec
from cnnbench.worker.peaks.kernels import grown, repeat, set_sizes
from tests.conftest import Cli
from tests.peaks import KIB, peaks, throughput
from tests.records import ENVIRONMENT


def test_the_best_repetition_is_the_ceiling() -> None:
    assert peaks().flops_per_s("fp32") == pytest.approx(100e9)
    fastest = peaks().fastest("fp32", "depthwise convolution")
    assert fastest is not None
    assert fastest.flops_per_s == pytest.approx(50e9)


def test_what_was_not_measured_is_unknown() -> None:
    empty = peaks().model_copy(update={"throughputs": [], "bandwidths": [], "calls": []})
    assert peaks().flops_per_s("bf16") is None
    assert empty.flops_per_s("fp32") is None
    assert empty.bytes_per_s(1000) is None
    assert empty.memory_bytes_per_s() is None
    assert peaks().call_s("onnxruntime", "operator") is None


@pytest.mark.parametrize(
    ("working_set_bytes", "bytes_per_s"),
    [
        (1, 40e9),  # smaller than any: what a larger set reaches, it can reach too
        (32 * KIB, 40e9),
        (64 * KIB, 40e9),
        (512 * KIB, 40e9),  # between two: the smaller one's is never too low
        (1024 * KIB, 10e9),
        (10**9, 10e9),
    ],
)
def test_memory_is_as_fast_as_its_working_set_allows(working_set_bytes: int, bytes_per_s: float) -> None:
    assert peaks().bytes_per_s(working_set_bytes) == pytest.approx(bytes_per_s)


def test_a_call_costs_the_least_that_it_ever_did() -> None:
    assert peaks().call_s("torch", "convolution") == pytest.approx(5e-6)


def test_ceilings_come_back_from_a_folder_by_device_and_threads(tmp_path: Path) -> None:
    assert read_peaks(tmp_path) == []
    write_peaks(tmp_path, [peaks(threads=1)])
    write_peaks(tmp_path, [peaks(threads=2), peaks("cuda", 2, "NVIDIA H100 PCIe")])
    found = read_peaks(tmp_path)
    assert [(each.device, each.threads) for each in found] == [("cpu", 1), ("cpu", 2), ("cuda", 2)]
    assert find_peaks(found, "cpu", 2) == peaks(threads=2)
    assert find_peaks(found, "cpu", 4) is None
    accelerator = find_peaks(found, "cuda", 16)
    assert accelerator is not None  # what an accelerator can do does not depend on CPU threads
    assert accelerator.device_name == "NVIDIA H100 PCIe"


def test_a_damaged_or_newer_file_is_told(tmp_path: Path) -> None:
    (tmp_path / PEAKS).write_text("{")
    with pytest.raises(RunFolderError, match="expected peaks of schema 2; delete the file"):
        read_peaks(tmp_path)
    (tmp_path / PEAKS).write_text('{"schema_version": 99, "peaks": []}')
    with pytest.raises(RunFolderError, match="schema_version"):
        read_peaks(tmp_path)


def test_each_device_and_number_of_threads_is_measured_once() -> None:
    def case(threads: int | None, device: str = "cpu", batch: int = 1) -> Case:
        return Case.model_validate(
            {
                "spec": ModelSpec(model="lenet5"),
                "workload": "inference",
                "runtime": "eager",
                "device": device,
                "batch": batch,
                "threads": threads,
            }
        )

    cases = [case(1), case(3), case(1, batch=8), case(1, "cuda"), case(3, "cuda")]
    assert peaks_for(cases) == [("cpu", 1), ("cpu", 3), ("cuda", 1)]


def test_sizes_grow_until_one_takes_long_enough() -> None:
    asked: list[int] = []

    def make(size: int) -> object:
        asked.append(size)
        return lambda: sum(range(size))

    found = grown([10, 100, 2_000_000, 4_000_000], make, 0.008)  # type: ignore[arg-type]
    assert list(found) == asked == [10, 100, 2_000_000]
    assert all(len(taken) >= 3 for taken in found.values())
    assert len(repeat(lambda: None, 0.0)) == 3


def test_working_sets_reach_from_the_first_cache_to_far_beyond_the_last() -> None:
    assert set_sizes(600 * KIB) == [32 * KIB, 128 * KIB, 512 * KIB]


def test_the_largest_cache_is_read_from_the_system(tmp_path: Path) -> None:
    for index, size in enumerate(("32K", "1024K", "32M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(size + "\n")
    assert last_level_cache_bytes(tmp_path) == 32 * 2**20
    assert last_level_cache_bytes(tmp_path / "nowhere") == 0


def test_a_peak_above_its_datasheet_is_explained() -> None:
    card = peaks("cuda", 2, "NVIDIA L4")  # 30.3 TFLOP/s by its datasheet
    assert peaks_table([card]).notes == []
    convolution = throughput(60e12, kernel="3x3 convolution")
    above = card.model_copy(update={"throughputs": [*card.throughputs, convolution]})
    assert "Winograd" in " ".join(peaks_table([above]).notes)


def test_datasheets_are_dense_and_known_by_their_very_names_alone() -> None:
    h100 = datasheet_of("NVIDIA H100 80GB HBM3")
    assert h100 is not None
    assert h100.flops_per_s("bf16") == pytest.approx(989.5e12)  # the datasheet's 1,979 is with sparsity
    assert h100.bytes_per_s == pytest.approx(3.35e12)
    t4 = datasheet_of("Tesla T4")
    assert t4 is not None
    assert t4.flops_per_s("bf16") is None
    assert datasheet_of("NVIDIA A10G") is None
    assert datasheet_of("NVIDIA H100") is None  # which of them?
    names = [name for each in DATASHEETS for name in each.names]
    assert len(names) == len(set(names))
    assert all(each.source.startswith("NVIDIA, ") for each in DATASHEETS)
    assert all(each.fp32 <= (each.fp16 or each.fp32) for each in DATASHEETS)


def test_ceilings_as_text_name_the_best_of_each() -> None:
    lines = list(peaks_lines(peaks("cuda", name="NVIDIA L4")))
    assert any(line.split()[:6] == ["torch", "matrix", "product", "fp32", "100", "small"] for line in lines)
    assert any(line.startswith("datasheet, dense: fp32 30,300, bf16 121,000") and "L4" in line for line in lines)
    assert "datasheet, dense: unknown" in list(peaks_lines(peaks("cuda", name="NVIDIA X1")))


@pytest.fixture(scope="module")
def measured() -> Peaks:
    """This machine's, from repetitions too short to be exact."""
    return measure_peaks("cpu", 1, kernel_s=0.002, largest_set_bytes=128 * KIB)


def test_both_libraries_are_really_measured(measured: Peaks) -> None:
    assert measured.failures == {} or all("bf16" in what for what in measured.failures)
    kernels = {(each.library, each.kernel) for each in measured.throughputs if each.precision == "fp32"}
    assert {library for library, _ in kernels} == {"torch", "onnxruntime"}
    assert {kernel for _, kernel in kernels} == {
        "matrix product",
        "3x3 convolution",
        "1x1 convolution",
        "depthwise convolution",
    }
    in_int8 = {each.kernel for each in measured.throughputs if each.precision == "int8"}
    assert in_int8 == {kernel for _, kernel in kernels}
    peak, memory = measured.flops_per_s("fp32"), measured.memory_bytes_per_s()
    assert peak is not None
    assert memory is not None
    assert 1e8 < peak < 1e14  # any processor that runs torch, and no unit mistaken
    assert 1e8 < memory < 1e13
    assert {each.working_set_bytes for each in measured.bandwidths} == {32 * KIB, 128 * KIB}
    for library in ("torch", "onnxruntime"):
        for cost in (measured.call_s(library, "operator"), measured.call_s(library, "convolution")):
            assert cost is not None
            assert 1e-9 < cost < 1e-2


def test_doctor_says_what_its_options_need(cli: Cli) -> None:
    done = cli("doctor", "--threads", "1")
    assert done.returncode == 2
    assert "expected them with --peaks" in done.stderr


def test_ceilings_go_into_no_run_of_another_machine(home: Path, cli: Cli) -> None:
    (home / "run").mkdir()
    (home / "run" / "run.json").write_text(json.dumps({"suite": "x", "started": "now"}))
    (home / "run" / "environment.json").write_text(ENVIRONMENT.model_dump_json())
    done = cli("doctor", "--peaks", "--into", "run")
    assert done.returncode == 2
    assert "expected a run of this machine; got another's: cpu: " in done.stderr


def test_peaks_are_kept_until_the_machine_changes_or_somebody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNNBENCH_CACHE", str(tmp_path))
    measured: list[tuple[Device, int]] = []

    def measure(device: Device, threads: int, logs: Path | None) -> Peaks:
        measured.append((device, threads))
        return peaks(device, threads, "NVIDIA L4")

    monkeypatch.setattr(tasks, "measure_peaks", measure)
    assert tasks.peaks_of("cpu", 2, ENVIRONMENT) == tasks.peaks_of("cpu", 2, ENVIRONMENT)
    assert measured == [("cpu", 2)]
    tasks.peaks_of("cpu", 1, ENVIRONMENT)
    tasks.peaks_of("cpu", 2, ENVIRONMENT, anew=True)
    machine = ENVIRONMENT.machine.model_copy(update={"cpu": "Another CPU"})
    tasks.peaks_of("cpu", 2, ENVIRONMENT.model_copy(update={"machine": machine}))
    assert measured[1:] == [("cpu", 1), ("cpu", 2), ("cpu", 2)]
    for name in ("NVIDIA L4", "NVIDIA L4", "NVIDIA T4"):
        tasks.peaks_of("cuda", 2, ENVIRONMENT.model_copy(update={"accelerators": {"cuda": name}}))
    assert measured[4:] == [("cuda", 2), ("cuda", 2)], "another accelerator is measured again"
    for file in tmp_path.rglob(PEAKS):
        file.write_text("{")
    tasks.peaks_of("cpu", 2, ENVIRONMENT)
    assert measured[6:] == [("cpu", 2)], "a damaged file too"
