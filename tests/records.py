"""Records made by hand, with fixed numbers, for tests of storing and showing."""

from cnnbench.records.environment import Environment, Machine, Threads
from cnnbench.records.record import (
    ArtifactFacts,
    Block,
    CounterResults,
    CountsSummary,
    Launch,
    Measurement,
    Memory,
    Parity,
    Record,
    Status,
)
from cnnbench.suite.case import PHASES, Case, ModelSpec

ENVIRONMENT = Environment(
    machine=Machine(cpu="Testing CPU", affinity_cores=2, memory_bytes=8 * 2**30, system="Linux 6"),
    software={"python": "3.11.7", "torch": "2.14.1", "onnxruntime-gpu": "1.31.1", "git_commit": "abc"},
    threads=Threads(used=(2,)),
)


def case(
    runtime: str = "eager",
    workload: str = "inference",
    device: str = "cpu",
    batch: int = 8,
    model: str = "lenet5",
) -> Case:
    """A case of a catalogued model at its own size."""
    spec = ModelSpec(model=model, image_size=(28, 28) if model == "lenet5" else None, classes=10)
    return Case.model_validate(
        {"spec": spec, "workload": workload, "runtime": runtime, "device": device, "batch": batch}
    )


def measurement(call_s: list[float], phases: tuple[str, ...] = PHASES["inference"], samples: int = 2) -> Measurement:
    """One launch with one turn per value: `samples` samples of that time, split over the phases."""
    blocks = [
        Block(round=n, seconds={phase: [s / len(phases)] * samples for phase in phases}) for n, s in enumerate(call_s)
    ]
    memory = Memory(imported_bytes=2**20, loaded_bytes=2 * 2**20, peak_bytes=100 * 2**20)
    return Measurement(
        launches=[
            Launch(
                import_s=1.0,
                load_s=0.25,
                first_call_s=0.05,
                warmup_calls=12,
                warmup_s=0.5,
                converged=True,
                calls_per_sample=1,
                blocks=blocks,
                stopped="budget spent",
                memory=memory,
            )
        ]
    )


def facts() -> ArtifactFacts:
    """LeNet's, without its layers."""
    return ArtifactFacts(
        key="k",
        input_shape=(1, 28, 28),
        classes=10,
        weight_bytes=177_704,
        onnx_bytes=190_000,
        opset=20,
        output_rms=0.01,
        eager_error=1e-6,
        parity_limit=1e-5,
        seconds={"export": 2.5},
        counters=CounterResults(closed_form=None, counted={}),
        versions={},
    )


def record(
    of: Case,
    call_s: list[float] | None = None,
    status: Status = "ok",
    reasons: list[str] | None = None,
    samples: int = 2,
) -> Record:
    """A record of a case; measured if times are given."""
    return Record(
        id=of.id,
        case=of,
        status=status,
        reasons=reasons or [],
        started="2026-01-01T00:00:00+00:00",
        group="group",
        counts=CountsSummary(
            params=44_426,
            macs=281_640,
            closed_form=True,
            counters=["closed form", "module"],
            disagreements=[],
        )
        if call_s
        else None,
        artifact=facts() if call_s else None,
        parity=[Parity(what="ort b1", error=2e-6, limit=1e-5)] if call_s else [],
        measurement=measurement(call_s, of.phases, samples) if call_s else None,
        environment=ENVIRONMENT,
    )
