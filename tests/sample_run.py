"""A run made by hand that has some of everything, for tests of reports: fixed numbers, so the same page every time."""

from pathlib import Path

from cnnbench.analysis.counts import summary
from cnnbench.networks import registry
from cnnbench.records.reason import Interference, Reason
from cnnbench.records.record import CounterResults, Measurement, Published, Record, Status
from cnnbench.records.run_folder import Run
from cnnbench.suite.case import Case
from tests.records import ENVIRONMENT, case, record

EVIL = "<script>alert('x')</script>"
ACCURACY = {"alexnet": 56.5, "resnet18": 69.8, "mobilenet_v2": 72.2}
WOBBLE = (1.0, 1.01, 1.02, 0.98, 0.99, 1.0, 1.0, 1.003)


def sample_run(folder: Path) -> Run:
    """Three models with published accuracy and one without, measured in two runtimes, and what can go wrong."""
    records = [
        each for model, ms in (("alexnet", 14), ("resnet18", 20), ("mobilenet_v2", 5)) for each in _model(model, ms)
    ]
    records += [
        _measured(
            _imagenet("alexnet", "ort", "training", 8),
            300,
            "invalid",
            [Reason(code="parity", detail="it computes something else")],
        ),
        record(
            case("eager", device="cuda"), status="unavailable", reasons=[Reason(code="no-device", detail="no driver")]
        ),
        record(
            case("eager", model=EVIL),
            status="failed",
            reasons=[Reason(code="crashed", detail=f"{EVIL} | killed by signal 9")],
        ),
        record(case("eager"), [0.010 * w for w in WOBBLE], samples=10),
        record(case("ort"), [0.010 * w for w in reversed(WOBBLE)]),
    ]
    return Run(folder, "sample", "2026-01-01T00:00:00+00:00", ENVIRONMENT, {each.id: each for each in records})


def _model(model: str, ms: float) -> list[Record]:
    """One model: batches of 1 and 8 in eager and, twice as fast, in ort; training in eager and, slower, in ort."""
    found = []
    for batch in (1, 8):
        found.append(_measured(_imagenet(model, "eager", "inference", batch), 2 * ms * batch))
        found.append(_measured(_imagenet(model, "ort", "inference", batch), ms * batch))
    found.append(_measured(_imagenet(model, "eager", "training", 8), 60 * ms))
    if model != "alexnet":
        found.append(_measured(_imagenet(model, "ort", "training", 8), 75 * ms))
    return found


def _imagenet(model: str, runtime: str, workload: str, batch: int) -> Case:
    of = case(runtime, workload, batch=batch, model=model)
    return of.model_copy(update={"spec": of.spec.model_copy(update={"image_size": (224, 224), "classes": 1000})})


def _measured(of: Case, ms: float, status: Status = "ok", reasons: list[Reason] | None = None) -> Record:
    made = record(of, [ms / 1e3 * w for w in WOBBLE], status, reasons)
    network = registry.get(of.spec.model).network()
    published = Published(
        weights="V1",
        params=network.params,
        giga_macs=round(network.macs / 1e9, 3),
        image_size=224,
        top1_percent=ACCURACY[of.spec.model],
    )
    counters = CounterResults(
        closed_form={"all": (network.params, network.macs)},
        counted={"module": {"all": (network.params, 0)}, "dispatch": {"all": (0, network.macs)}},
        published=published,
    )
    assert made.artifact is not None
    assert made.measurement is not None
    facts = made.artifact.model_copy(update={"input_shape": (3, 224, 224), "classes": 1000, "counters": counters})
    return made.model_copy(
        update={
            "artifact": facts,
            "measurement": _interference(made.measurement),
            "counts": summary(of.spec, facts),
        }
    )


def _interference(measurement: Measurement) -> Measurement:
    """The same with its second turn disturbed."""
    (launch,) = measurement.launches
    blocks = list(launch.blocks)
    blocks[1] = blocks[1].model_copy(update={"interference": [Interference(kind="other-processes", amount=0.48)]})
    return Measurement(launches=[launch.model_copy(update={"blocks": blocks})])
