"""Ceilings made by hand, with round numbers, for tests of what binds a case."""

from cnnbench.records.peaks import Bandwidth, CallCost, Peaks, Throughput
from cnnbench.suite.case import Device

KIB = 2**10


def throughput(flops_per_s: float, precision: str = "fp32", kernel: str = "matrix product") -> Throughput:
    """A kernel of a million operations whose best of two repetitions reaches this."""
    best_s = 1e6 / flops_per_s
    return Throughput.model_validate(
        {
            "library": "torch",
            "kernel": kernel,
            "precision": precision,
            "size": "small",
            "flop": 1_000_000,
            "seconds": [2 * best_s, best_s],
        }
    )


def bandwidth(working_set_bytes: int, bytes_per_s: float) -> Bandwidth:
    """An update in place that reaches this."""
    moved_bytes = 2 * working_set_bytes
    return Bandwidth(
        pattern="update",
        working_set_bytes=working_set_bytes,
        moved_bytes=moved_bytes,
        seconds=[moved_bytes / bytes_per_s],
    )


def call(library: str, smallest: str, call_s: float) -> CallCost:
    """A hundred calls at this cost."""
    return CallCost.model_validate(
        {"library": library, "smallest": smallest, "calls": 100, "seconds": [100 * call_s, 300 * call_s]}
    )


def peaks(device: Device = "cpu", threads: int = 2, name: str = "Testing CPU") -> Peaks:
    """100 GFLOP/s, half of it depthwise; 40 GB/s up to 64 KiB, 10 GB/s beyond 1 MiB; 1 and 5 microseconds a call."""
    return Peaks(
        device=device,
        device_name=name,
        threads=threads,
        started="2026-01-01T00:00:00+00:00",
        versions={"torch": "2.14.1"},
        throughputs=[throughput(100e9), throughput(50e9, kernel="depthwise convolution")],
        bandwidths=[bandwidth(32 * KIB, 20e9), bandwidth(64 * KIB, 40e9), bandwidth(1024 * KIB, 10e9)],
        calls=[call("torch", "operator", 1e-6), call("torch", "convolution", 5e-6)],
    )
