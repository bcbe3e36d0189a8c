"""Lower bounds and what limits a case, with numbers computed by hand."""

from dataclasses import replace

import pytest

from cnnbench.analysis.roofline import LowerBound, ProfiledCall, Roofline, Work, case_roofline, lower_bound, works
from cnnbench.networks import registry
from cnnbench.networks.layers import WorkKind
from cnnbench.networks.network import Layer
from cnnbench.networks.trainable import freeze
from cnnbench.networks.training import work as training_work
from cnnbench.records.layer_profile import ModelProfile, Row, Times
from cnnbench.records.peaks import Peaks
from cnnbench.suite.case import Case, ModelSpec
from tests.peaks import KIB, peaks


def case(model: str = "resnet18", **changes: object) -> Case:
    return Case.model_validate(
        {"spec": ModelSpec(model=model), "workload": "inference", "runtime": "eager", "batch": 1, **changes}
    )


def layer(model: str, name: str) -> Layer:
    return next(each for each in registry.get(model).network().layers if each.name == name)


def of(macs: int, moved_bytes: int) -> Work:
    kind: WorkKind = "convolutions" if macs else "activations"
    return Work(name="layer", kind=kind, macs=macs, moved_bytes=moved_bytes)


@pytest.mark.parametrize(
    ("work", "times_s", "total_s", "bound"),
    [
        # 2 x 50 M FLOP at 100 GFLOP/s: 1 ms; 64 KiB at 40 GB/s: 1.6 us; a convolution's call: 5 us.
        (of(50_000_000, 64 * KIB), (1e-3, 64 * KIB / 40e9, 5e-6), 1.005e-3, "compute"),
        # 2 x 1 M FLOP: 20 us; 10 MB at 10 GB/s: 1 ms.
        (of(1_000_000, 10_000_000), (2e-5, 1e-3, 5e-6), 1.005e-3, "memory"),
        # Next to nothing, without MACs: an operator's call, 1 us.
        (of(0, 400), (0.0, 1e-8, 1e-6), 1.01e-6, "overhead"),
    ],
)
def test_the_longest_of_arithmetic_memory_and_overhead_is_the_limit(
    work: Work, times_s: tuple[float, ...], total_s: float, bound: str
) -> None:
    found = lower_bound(work, case(), peaks())
    assert (found.compute_s, found.memory_s, found.overhead_s) == pytest.approx(times_s)
    assert found.total_s == pytest.approx(total_s)
    assert found.bound == bound


def test_on_an_accelerator_launches_overlap_with_the_work() -> None:
    found = lower_bound(of(50_000_000, 64 * KIB), case(device="cuda"), peaks("cuda"))
    assert found.total_s == pytest.approx(1e-3)
    assert lower_bound(of(0, 400), case(device="cuda"), peaks("cuda")).total_s == pytest.approx(1e-6)


def test_where_there_is_nothing_to_do_nothing_is_called() -> None:
    assert lower_bound(of(0, 0), case(), peaks()).total_s == 0.0
    assert lower_bound(of(0, 0), case(runtime="compile"), peaks()).overhead_s is None


@pytest.mark.parametrize(
    "known", [None, *(peaks().model_copy(update={lacking: []}) for lacking in ("bandwidths", "throughputs"))]
)
def test_an_unknown_peak_leaves_the_lower_bound_and_the_limit_unknown(known: Peaks | None) -> None:
    found = lower_bound(of(1000, 1000), case(), known)
    assert found.total_s is None
    assert found.bound is None


def test_unknown_overhead_adds_nothing() -> None:
    found = lower_bound(of(50_000_000, 64 * KIB), case(runtime="compile"), peaks())
    assert found.overhead_s is None
    assert found.total_s == pytest.approx(1e-3)


def test_a_case_is_the_sum_of_its_layers_and_keeps_their_macs() -> None:
    network = registry.get("resnet18").network()
    found = case_roofline(case(batch=8), 0.5, network.macs, network, peaks())
    assert found.macs == 8 * 1_814_073_344
    assert found.moved_bytes == network.moved_bytes(8)
    assert found.flops_per_s == pytest.approx(2 * 8 * 1_814_073_344 / 0.5)
    assert found.compute_share == pytest.approx(2 * 8 * 1_814_073_344 / 100e9 / 0.5)
    assert found.lower_bound_s == pytest.approx(sum(each.total_s or 0.0 for each in found.layers))
    assert found.bound == "compute"


def bound_of(compute_s: float, memory_s: float | None, overhead_s: float | None) -> LowerBound:
    return LowerBound(work=of(1, 1), compute_s=compute_s, memory_s=memory_s, overhead_s=overhead_s, queued=False)


LAYERS = (bound_of(0.3, 0.1, 0.05), bound_of(0.1, 0.2, 0.1), bound_of(0.0, 0.0, 0.01))
ROOFLINE = Roofline(seconds=2.0, macs=10**9, moved_bytes=4 * 10**8, peak_flops_per_s=1e10, layers=LAYERS)


def test_shares_are_of_the_measured_time() -> None:
    assert (ROOFLINE.flops_per_s, ROOFLINE.bytes_per_s) == (1e9, 2e8)
    shares = ROOFLINE.compute_share, ROOFLINE.memory_share, ROOFLINE.overhead_share, ROOFLINE.lower_bound_share
    assert shares == pytest.approx((0.1, 0.15, 0.08, 0.33))
    assert ROOFLINE.lower_bound_s == pytest.approx(0.35 + 0.3 + 0.01)
    unknown = replace(ROOFLINE, moved_bytes=None, peak_flops_per_s=None, layers=())
    assert (unknown.bytes_per_s, unknown.compute_share, unknown.memory_share) == (None, None, None)
    assert (unknown.overhead_share, unknown.lower_bound_s, unknown.lower_bound_share) == (None, None, None)
    one = replace(ROOFLINE, layers=(*LAYERS, bound_of(0.1, None, None)))
    assert (one.memory_share, one.overhead_share, one.lower_bound_s) == (None, None, None)


@pytest.mark.parametrize(
    ("layers", "kernel_share", "bound"),
    [
        (LAYERS, None, "compute"),
        ((*LAYERS, LAYERS[1]), None, "memory"),  # 0.6 s of two layers, against 0.35 of one
        (LAYERS[2:], None, "overhead"),
        (LAYERS, 0.17, "compute"),  # 0.175 of the measured time
        (LAYERS, 0.18, "kernel"),
        ((), 0.5, None),
        ((), 0.51, "kernel"),
        ((*LAYERS, bound_of(0.1, None, None)), 0.49, None),
    ],
)
def test_what_takes_the_largest_share_of_the_time_is_the_limit(
    layers: tuple[LowerBound, ...], kernel_share: float | None, bound: str | None
) -> None:
    assert replace(ROOFLINE, layers=layers, kernel_share=kernel_share).bound == bound


def test_without_a_closed_form_only_the_arithmetic_is_known() -> None:
    found = case_roofline(case("resnet18"), 0.5, 1_000_000, None, peaks())
    assert found.flops_per_s == pytest.approx(4e6)
    assert found.compute_share == pytest.approx(4e-5)
    assert (found.moved_bytes, found.bytes_per_s, found.lower_bound_s, found.bound) == (None, None, None, None)
    step = case_roofline(case(workload="training", batch=4), 0.5, 1_000_000, None, None, 0.3)
    assert (step.macs, step.compute_share, step.kernel_share) == (3 * 4 * 1_000_000, None, 0.3)


def test_a_runtime_that_fuses_has_fewer_layers_and_the_same_macs() -> None:
    network = registry.get("resnet18").network()
    eager, folded, ort = (works(network, case(runtime=name)) for name in ("eager", "folded", "ort"))
    assert len(eager) - len(folded) == 20  # its batch normalisations
    assert len(folded) - len(ort) == 17 + 8  # its activations and sums
    assert sum(w.macs for w in eager) == sum(w.macs for w in ort) == network.macs


def test_a_training_step_has_the_macs_of_its_closed_form_and_an_update() -> None:
    network = registry.get("resnet18").network()
    found = works(network, case(workload="training", batch=4))
    assert sum(work.macs for work in found) == 4 * training_work(network).total
    update = found[-1]
    assert (update.name, update.moved_bytes) == ("optimizer", 5 * network.weight_bytes)


def test_the_backward_pass_of_a_convolution_reads_and_writes_what_both_its_products_need() -> None:
    conv = layer("resnet18", "layer1.0.conv1")  # 64 x 56 x 56 in and out, 3 x 3
    found = next(
        w
        for w in works(registry.get("resnet18").network(), case(workload="training", batch=2))
        if w.name == "layer1.0.conv1 backward"
    )
    activation, weights = 64 * 56 * 56 * 4, 64 * 64 * 9 * 4
    # dy for either product, the kept input, dx; the weights and their gradient.
    assert found.moved_bytes == 2 * (2 * activation + activation + activation) + 2 * weights
    assert found.macs == 2 * 2 * conv.macs


def backward_bytes(model: str, batch: int) -> dict[str, int]:
    found = works(registry.get(model).network(), case(workload="training", batch=batch))
    return {work.name.removesuffix(" backward"): work.moved_bytes for work in found if work.name.endswith(" backward")}


def test_the_backward_pass_of_other_layers_moves_at_least_what_their_gradients_need() -> None:
    """In values of 4 bytes; dy is the output's gradient, dx the input's."""
    found = backward_bytes("resnet18", 2)
    image, stem, pooled = 3 * 224 * 224, 64 * 112 * 112, 64 * 56 * 56
    assert found["conv1"] == 4 * (2 * (stem + image) + 2 * 64 * 3 * 49)  # dy, the image; no dx
    assert found["bn1"] == 4 * (2 * 3 * stem + 2 * 2 * 64)  # dy, dx, the input
    assert found["relu"] == 4 * 2 * 3 * stem  # dy, dx, the output
    assert found["maxpool"] == 4 * 2 * (pooled + 2 * stem + 2 * pooled)  # dy, dx, the input, indices of 8 bytes
    assert found["fc"] == 4 * (2 * (2 * 1000 + 2 * 512) + 2 * (512 + 1) * 1000)  # dy twice, dx, the input
    assert not {"flatten", "layer1.0.add"} & found.keys(), "they hand the gradient on"
    assert next(iter(found)) == "fc"
    wide, narrow = 16 * 56 * 56, 16  # a squeeze's scale: dy, both gradients, both inputs
    assert backward_bytes("mobilenet_v3_small", 1)["features.1.block.1.scale"] == 4 * (3 * wide + 2 * narrow)


def test_what_is_frozen_has_no_backward_pass_and_no_update() -> None:
    network = freeze(registry.get("resnet18").network(), "head")
    _, *forward, backward, update = works(network, case(workload="training", batch=2))
    assert not any(work.name.endswith("backward") for work in forward)
    assert (backward.name, backward.moved_bytes) == ("fc backward", 4 * (2 * (1000 + 512) + 2 * 513_000))  # no dx
    assert (backward.macs, update.moved_bytes) == (2 * 512_000, 5 * 4 * 513_000)


@pytest.mark.parametrize(("precision", "share"), [("bf16", 1 / 2), ("fp16", 1 / 2), ("int8", 1 / 4)])
def test_of_smaller_values_less_moves_at_least(precision: str, share: float) -> None:
    network = registry.get("resnet18").network()
    full, less = (sum(w.moved_bytes for w in works(network, case(precision=p))) for p in ("fp32", precision))
    assert less == pytest.approx(share * full, rel=1e-3)


def test_weights_are_updated_in_float32_whatever_the_values_are() -> None:
    network = registry.get("resnet18").network()
    first, *_, update = works(network, case(workload="training", precision="amp-bf16"))
    assert (first.name, first.moved_bytes) == ("conv1", 3_851_008 // 2)
    assert update.moved_bytes == 5 * network.weight_bytes


@pytest.mark.parametrize(
    ("model", "name", "kind"),
    [
        ("mobilenet_v2", "features.2.conv.1.0", "depthwise convolutions"),
        ("mobilenet_v2", "features.2.conv.0.0", "1x1 convolutions"),
        ("resnet18", "conv1", "convolutions"),
        ("resnext50_32x4d", "layer1.0.conv2", "grouped convolutions"),
        ("resnet18", "fc", "fully connected layers"),
        ("resnet18", "bn1", "normalisation"),
        ("resnet18", "relu", "activations"),
        ("resnet18", "maxpool", "pooling"),
    ],
)
def test_layers_are_called_by_the_kind_of_their_work(model: str, name: str, kind: str) -> None:
    assert layer(model, name).work == kind


def profile() -> ModelProfile:
    """Two seconds under the profiler: 1.0 in two depthwise layers, 0.5 in another, 0.5 between the operators."""

    def row(name: str, work: str, macs: int, seconds: float) -> Row:
        return Row(name=name, kind="Conv", work=work, macs=macs, moved_bytes=10**7, seconds={"eager": seconds})

    rows = (
        row("a", "depthwise convolutions", 10**6, 0.6),
        row("b", "1x1 convolutions", 10**9, 0.5),
        row("c", "depthwise convolutions", 10**6, 0.4),
    )
    times = {"eager": Times(layers_s=1.5, other={}, outside_s=0.5, quartiles_s=(1.9, 2.1))}
    return ModelProfile(model="tiny", input_shape=(3, 8, 8), batch=1, calls=5, threads=2, rows=rows, times=times)


def test_operators_are_held_against_the_call_as_it_was_measured() -> None:
    call = ProfiledCall(profile(), case(), 1.6, peaks())
    first, second = call.kinds
    assert first.name == "depthwise convolutions"
    assert first.share == pytest.approx(1.0 / 1.6)
    assert first.roofline.seconds == pytest.approx(1.0)
    assert second.share == pytest.approx(0.5 / 1.6)
    assert call.framework_overhead == pytest.approx(0.1 / 1.6)


def test_operators_that_come_out_longer_than_the_call_share_it_among_them() -> None:
    call = ProfiledCall(profile(), case(), 0.15, peaks())
    first, second = call.kinds
    assert [first.share, second.share] == pytest.approx([2 / 3, 1 / 3])
    assert first.roofline.seconds == pytest.approx(0.1)
    assert first.roofline.flops_per_s == pytest.approx(4e6 / 0.1)
    assert call.framework_overhead == pytest.approx(0.0)
    assert first.roofline.bound == "memory"
    assert (second.name, second.roofline.bound) == ("1x1 convolutions", "compute")
    assert [part.name for part in call.layers] == ["a", "b", "c"]
    assert ProfiledCall(profile(), case(runtime="ort"), 0.1, peaks()).kinds == []


def test_the_arithmetic_of_operators_is_known_where_the_memory_that_one_moves_is_not() -> None:
    known = profile()
    rows = (*known.rows[:2], known.rows[2].model_copy(update={"moved_bytes": None}))
    first, _ = ProfiledCall(known.model_copy(update={"rows": rows}), case(), 1.6, peaks()).kinds
    assert (first.roofline.macs, first.roofline.moved_bytes) == (2 * 10**6, None)
    for rows_moved in (10**7, None):
        without = known.rows[2].model_copy(update={"macs": None, "moved_bytes": rows_moved, "name": ""})
        call = ProfiledCall(known.model_copy(update={"rows": (*known.rows[:2], without)}), case(), 1.6, peaks())
        assert call.kinds[0].roofline.macs == 10**6
        assert [part.name for part in call.layers] == ["a", "b", "tiny"], "the model itself"
