"""Model summary: every layer with its formulas, totals, the cost of training, and the dominant layers."""

import dataclasses
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any, get_args

from tabulate import tabulate

from cnnbench.networks import training
from cnnbench.networks.architecture import Architecture
from cnnbench.networks.layers import Op, Value, spelled, written_out
from cnnbench.networks.network import Layer, Network
from cnnbench.networks.units import FLOP_PER_MAC, MB
from cnnbench.report.format import significant
from cnnbench.report.plain import lines_of

if TYPE_CHECKING:
    from cnnbench.analysis.counts import Verdict

DOMINANT = 5
"""Layers named for each figure."""


def _stage_of(layer: Layer) -> str:
    """The part of the network that a layer belongs to: the modules around it, two deep at most."""
    outer = layer.name.split(".")[:-1]
    return ".".join(outer[:1] if outer and any(map(str.isdigit, outer[0])) else outer[:2])


def _settings_of(op: Op) -> str:
    """The layer as its constructor call, without defaults and further inputs: `Conv(64, kernel=7, stride=2)`."""
    words: list[str] = []
    for field in dataclasses.fields(op):  # type: ignore[arg-type]
        value = getattr(op, field.name)
        values = value if isinstance(value, tuple) else (value,)
        if value == field.default or all(isinstance(each, Value) for each in values):
            continue
        shown = value if isinstance(value, str) else repr(value)
        words.append(shown if not words and field.default is dataclasses.MISSING else f"{field.name}={shown}")
    return f"{type(op).__name__}({', '.join(words)})" if words else type(op).__name__


def _intensity(of: Layer | Network, batch: int) -> float | None:
    """FLOP per byte moved; None where nothing is."""
    moved_bytes = of.moved_bytes(batch)
    return of.flops(batch) / moved_bytes if moved_bytes else None


def as_json(network: Network, batch: int, left_out: list[str], whole: Network | None = None) -> dict[str, Any]:
    """The summary for programs: counts for `batch` images, bytes in float32.

    `whole` is the network with all of it trained, where it is frozen in part.
    """
    return {
        "model": network.name,
        "input_shape": [batch, *network.input_shape],
        "params": network.params,
        "macs": network.macs * batch,
        "elementwise": network.elementwise * batch,
        "weight_bytes": network.weight_bytes,
        "activation_bytes": network.activation_bytes * batch,
        "moved_bytes": network.moved_bytes(batch),
        "flop_per_byte": _intensity(network, batch),
        "trained_params": network.trained_params,
        "training": None if network.training_problem else _training(network, batch),
        "predicted_speedup": None if whole is None or network.training_problem else training.saving(network, whole),
        "training_problem": network.training_problem,
        "left_out": left_out,
        "layers": [
            {
                **row,
                "settings": _settings_of(layer.op),
                "params_formula": written_out(layer.op.param_terms(layer.input_shape)),
                "macs_formula": written_out(layer.op.mac_terms(layer.input_shape)),
                "flop_per_byte": _intensity(layer, batch),
                "trained": not layer.frozen,
                "input_gradient_macs": training.input_gradient_macs(layer) * batch,
                "weight_gradient_macs": training.weight_gradient_macs(layer) * batch,
            }
            for row, layer in zip(network.as_rows(batch), network.layers, strict=True)
        ],
    }


def _training(network: Network, batch: int) -> dict[str, Any]:
    saved = training.saved_by_layer(network, batch)
    return {
        **{f"{name}_macs": macs * batch for name, macs in dataclasses.asdict(training.work(network)).items()},
        "saved_bytes": sum(saved.values()),
        "saved_bytes_by_layer": saved,
        "clipping_bytes": training.clipping_bytes(network),
        "step_memory": {
            optimizer: dataclasses.asdict(training.step_memory(network, batch, optimizer))
            for optimizer in get_args(training.Optimizer)
        },
    }


def text(network: Network, batch: int, left_out: list[str], whole: Network | None = None) -> Iterator[str]:
    """The same for people, line by line."""
    inputs = (network.input_shape, *network.further_inputs)
    yield f"{network.name}, input {' and '.join(spelled((batch, *shape)) for shape in inputs)}"
    for stage, layers in groupby(network.layers, key=_stage_of):
        yield from _stage(network, stage, list(layers), batch)
    step = None if network.training_problem else _training(network, batch)
    yield ""
    yield tabulate(_totals(network, batch, step, whole), tablefmt="plain", disable_numparse=True)
    yield ""
    yield "dominant layers"
    figures = {
        "parameters": {layer.name: layer.params for layer in network.layers},
        "MACs": {layer.name: layer.macs for layer in network.inference},
        "bytes moved": {layer.name: layer.moved_bytes(batch) for layer in network.inference},
        **({"saved bytes": step["saved_bytes_by_layer"]} if step else {}),
    }
    for what, by_layer in figures.items():
        total = sum(by_layer.values())
        most = sorted(by_layer.items(), key=lambda item: -item[1])[:DOMINANT]
        yield f"  {what}: " + ", ".join(f"{name} {_share(count, total)}" for name, count in most if count)
    if left_out:
        yield "not counted"
        yield from (f"  - {line}" for line in left_out)


def _stage(network: Network, stage: str, layers: list[Layer], batch: int) -> Iterator[str]:
    """A heading with the stage's share, then its layers."""
    params = sum(layer.params for layer in layers)
    macs = sum(layer.macs for layer in layers if not layer.training_only)
    only = ", in training only" if all(layer.training_only for layer in layers) else ""
    yield ""
    yield (
        f"{stage or f'{network.name} itself'}: {params:,} parameters ({_share(params, network.params)}), "
        f"{macs * batch:,} MACs ({_share(macs, network.macs)}){only}"
    )
    yield from lines_of([_row(layer, batch) for layer in layers])


def _row(layer: Layer, batch: int) -> dict[str, str]:
    intensity = _intensity(layer, batch)
    macs = written_out(layer.op.mac_terms(layer.input_shape))
    return {
        "layer": layer.name,
        "kind": _settings_of(layer.op),
        "output": spelled(layer.output_shape),
        "parameters": _equation(written_out(layer.op.param_terms(layer.input_shape)), layer.params),
        "MACs": _equation(f"{batch}*{macs}" if batch > 1 and macs else macs, layer.macs * batch),
        "element-wise": f"{layer.elementwise * batch:,}" if layer.elementwise else "",
        "FLOP/byte": significant(intensity) if intensity else "",
    }


def _equation(formula: str, value: int) -> str:
    return f"{formula} = {value:,}" if formula else ""


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


def _totals(
    network: Network, batch: int, step: dict[str, Any] | None, whole: Network | None
) -> Iterator[tuple[str, str]]:
    flops, moved, macs = network.flops(batch), network.moved_bytes(batch), network.macs * batch
    yield "parameters", f"{network.params:,} ({network.weight_bytes / MB:,.1f} MB in float32)"
    yield (
        "forward",
        f"{macs:,} MACs = {FLOP_PER_MAC * macs / 1e9:,.3f} GFLOP, and {network.elementwise * batch:,} element-wise",
    )
    yield "activations", f"{network.activation_bytes * batch / MB:,.1f} MB, the outputs of all layers"
    yield "traffic", f"{moved / MB:,.1f} MB if nothing stays in a cache, {significant(flops / moved)} FLOP/byte"
    if step is None:
        yield "training", f"not at this size: {network.training_problem}"
        return
    values_macs = step["input_gradient_macs"] - step["first_input_gradient_macs"]
    giga = [FLOP_PER_MAC * part / 1e9 for part in (step["forward_macs"], values_macs, step["weight_gradient_macs"])]
    yield (
        "training",
        f"{sum(giga):,.3f} GFLOP = {giga[0]:,.3f} forward + {giga[1]:,.3f} activation gradients "
        f"+ {giga[2]:,.3f} weight gradients",
    )
    if whole is None and network.trained_params != network.params:
        yield "trained", f"{network.trained_params:,} of {network.params:,} parameters"
    if whole is not None:
        yield (
            "trained",
            f"{network.trained_params:,} of {network.params:,} parameters: {training.work(network).total * batch:,} of "
            f"{training.work(whole).total * batch:,} MACs, so at most {significant(training.saving(network, whole))} "
            "times as fast as training all",
        )
    yield "saved", f"{step['saved_bytes'] / MB:,.1f} MB saved for the backward pass"
    peaks = (f"{memory['peak'] / MB:,.1f} MB with {optimizer}" for optimizer, memory in step["step_memory"].items())
    yield "peak", f"of a training step: {', '.join(peaks)}"
    yield "clipping", f"gradients by their norm moves {step['clipping_bytes'] / MB:,.1f} MB if nothing stays in a cache"


def cross_checks(verdict: "Verdict", progress: str) -> Iterator[str]:
    """A heading with the progress, a line for each figure by every counter, then each difference with its reason."""
    reasons = f", {len(verdict.explained)} known difference(s)" if verdict.explained else ""
    said = "DISAGREE" if verdict.disagreements else "not all counted" if verdict.failed else "all agree"
    yield f"{verdict.model}: {said}{reasons}  [{progress}]"
    for what, by_counter in (("parameters", verdict.params), ("MACs", verdict.macs), ("backward", verdict.backward)):
        if by_counter:
            yield f"  {what}: " + ", ".join(f"{name} {value:,}" for name, value in by_counter.items())
    yield from (f"  {source}: {figure}" for source, figure in verdict.published.items())
    yield from (f"  = {line}" for line in verdict.explained)
    yield from (f"  ! {line}" for line in verdict.disagreements)
    yield from (f"  ! {name} failed: {why}" for name, why in verdict.failed.items())


def formula_of(architecture: Architecture) -> dict[str, Any]:
    """A network's totals as expressions, for programs."""
    from cnnbench.networks.symbolic import formula

    image = "images of H x W" if len(architecture.image_size) == 2 else "signals of length L"
    return {"model": architecture.name, "of": f"K classes, {image}", **dataclasses.asdict(formula(architecture))}


def formula_text(shown: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"{shown['model']}, for {shown['of']}",
        f"  parameters = {shown['params']}",
        f"  MACs       = {shown['macs']}",
        *(f"    {name} = {definition}" for name, definition in shown["sizes"].items()),
    ]
    if shown["multiple"]:
        lines.append(f"  for sides that are multiples of {shown['multiple']}:")
        lines.append(f"  MACs       = {shown['macs_of_multiples']}")
    return "\n".join(lines)
