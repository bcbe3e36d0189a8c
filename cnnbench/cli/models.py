"""Commands about models: their layers and counts, cross-checks, and export."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cnnbench.cli import common
from cnnbench.cli.common import (
    AnyModel,
    Channels,
    Classes,
    FrozenNorm,
    ImageSize,
    Inputs,
    Json,
    Loss,
    Trainable,
    Weights,
    WhatIf,
    architecture_of,
    size_of,
    spec,
)
from cnnbench.cli.recipe import Clip, Momentum, OptimizerName, WeightDecay, optimizer_of
from cnnbench.errors import InputError
from cnnbench.networks.units import MB
from cnnbench.report.format import format_seconds
from cnnbench.report.plain import print_json, print_rows
from cnnbench.suite.parse import checked

if TYPE_CHECKING:
    pass

app = typer.Typer()

Batch = Annotated[int, typer.Option(min=1, max=2**40, help="Images; work and output shapes are for all of them.")]


@app.command()
def count(
    models: Annotated[
        list[str] | None, typer.Argument(help="Names from `cnnbench list models`; all if none given.")
    ] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    batch: Batch = 1,
    what_if: WhatIf = None,
    as_json: Json = False,
) -> None:
    """Count parameters and MACs in closed form, layer by layer. 1 MAC = 2 FLOP.

    Example: cnnbench count resnet18 mobilenet_v2 --image-size 192
    """
    from cnnbench.networks import registry

    size = size_of(image_size)
    if what_if and not models:
        raise InputError("--what-if: expected a model, such as `cnnbench count mobilenet_v2 --what-if width=0.75`")
    networks = [architecture_of(model, what_if).network(size, classes) for model in models or registry.ARCHITECTURES]
    totals = [{"model": n.name, "params": n.params, "macs": n.macs * batch} for n in networks]
    if as_json:
        print_json([{**total, "layers": n.as_rows(batch)} for total, n in zip(totals, networks, strict=True)])
        return
    if not models:
        print_rows(totals)
        return
    for model, network in zip(models, networks, strict=True):
        typer.echo(f"{network.name}: {network.params:,} parameters, {network.macs * batch:,} MACs")
        if what_if:
            usual = registry.get(model).network(size, classes)
            ratios = network.params / usual.params, network.macs / usual.macs
            typer.echo(f"  {ratios[0]:.3g} x the parameters and {ratios[1]:.3g} x the MACs of {model}")
        columns = ("name", "op", "output_shape", "params", "macs")
        rows = [{column: row[column] for column in columns} for row in network.as_rows(batch)]
        print_rows([row for row in rows if row["params"] or row["macs"]])


@app.command()
def show(
    model: AnyModel,
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    batch: Batch = 1,
    trainable: Trainable = "all",
    what_if: WhatIf = None,
    formula: Annotated[
        bool, typer.Option("--formula", help="Totals as expressions in classes and image size.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show every layer with its formulas and numbers, totals, the cost of training, and the largest layers.

    Example: cnnbench show resnet18 --batch 8
    Example: cnnbench show resnet18 --trainable head
    """
    from cnnbench.networks import registry
    from cnnbench.networks.trainable import check_part, freeze
    from cnnbench.report import model_summary

    checked(registry.check_name, model, "MODEL")
    if formula:
        shown = model_summary.formula_of(architecture_of(model, what_if))
        print_json(shown) if as_json else typer.echo(model_summary.formula_text(shown))
        return
    left_out: list[str] = []
    if registry.find(model) or what_if:
        network = architecture_of(model, what_if).network(size_of(image_size), classes)
    else:
        from cnnbench.runner.tasks.trace import read

        reading = read(spec(model, image_size, classes, 0, channels, inputs))
        network, left_out = reading.network, reading.left_out
    frozen = freeze(network, checked(check_part, trainable, "--trainable"))
    whole = None if frozen is network else network
    if as_json:
        print_json(model_summary.as_json(frozen, batch, left_out, whole))
    else:
        typer.echo("\n".join(model_summary.text(frozen, batch, left_out, whole)))


@app.command()
def verify(
    models: Annotated[list[str] | None, typer.Argument(help="Models; all with a closed form if none given.")] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    as_json: Json = False,
) -> None:
    """Cross-check each model's counts: formula, module, torch's counter, fvcore, ONNX graph, published figures.

    Exit code 0 if all agree, layer by layer, except for known differences, which are shown with their reasons; 1 if two
    disagree; 3 if a counter could not count all, which is named.

    Example: cnnbench verify resnet18 lenet5
    """
    from cnnbench.networks import registry
    from cnnbench.report.model_summary import cross_checks
    from cnnbench.runner.tasks.verify import verify as verify_models

    specs = [spec(model, image_size, classes, 0, channels, inputs) for model in models or registry.ARCHITECTURES]
    start = time.monotonic()
    verdicts = []
    for verdict in verify_models(specs):
        verdicts.append(verdict)
        if not as_json:
            done, elapsed = len(verdicts), time.monotonic() - start
            left = format_seconds(elapsed / done * (len(specs) - done))
            typer.echo("\n".join(cross_checks(verdict, f"{done} of {len(specs)}, about {left} left")))
    if as_json:
        print_json([{**verdict.model_dump(), "agree": verdict.agree} for verdict in verdicts])
    if any(verdict.disagreements for verdict in verdicts):
        raise typer.Exit(common.EXIT_DISAGREE)
    if any(verdict.failed for verdict in verdicts):
        raise typer.Exit(common.EXIT_NOT_ALL_MEASURED)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as resnet18.onnx.")],
    image_size: ImageSize = None,
    classes: Classes = None,
    channels: Channels = None,
    inputs: Inputs = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the random weights.")] = 0,
    workload: Annotated[
        Literal["inference", "training"],
        typer.Option(metavar="inference|training", help="The network alone, or a whole training step."),
    ] = "inference",
    optimizer: OptimizerName = "sgd",
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    clip: Clip = None,
    weights: Weights = None,
    loss: Loss = None,
    trainable: Trainable = "all",
    frozen_norm: FrozenNorm = "eval",
    as_json: Json = False,
) -> None:
    """Export a model to ONNX with a dynamic batch, checked by onnx and compared with float64.

    A training step consists of forward, loss, backward and the optimizer's update; its initial weights are written
    beside it. The optimizer's options apply to a training step only.

    Example: cnnbench export resnet18 --out resnet18.onnx
    Example: cnnbench export resnet18 --workload training --out resnet18-step.onnx
    """
    from cnnbench.networks.trainable import check_part, with_norm
    from cnnbench.runner.tasks.export import Exported, ExportedStep, export_model, export_training_step

    chosen = spec(model, image_size, classes, seed, channels, inputs, weights, loss)
    done: Exported | ExportedStep
    if workload == "training":
        part = with_norm(checked(check_part, trainable, "--trainable"), frozen_norm)
        done = export_training_step(chosen, out, optimizer_of(optimizer, momentum, weight_decay, clip), part)
        size = f"{done.nodes:,} nodes, {done.onnx_bytes / MB:.1f} MB"
        lines = [f"{p.what}: error {p.error:.1e} against torch in float64, limit {p.limit:.1e}" for p in done.parity]
        lines = [f"{done.weights}: its initial weights, {done.weight_bytes / MB:.1f} MB", *lines]
    else:
        done = export_model(chosen, out)
        errors = ", ".join(f"{p.error:.1e} at {p.what}" for p in done.parity)
        size = f"{done.onnx_bytes / MB:.1f} MB, opset {done.opset}"
        lines = [f"parity with float64, relative to the output's RMS: {errors}; limit {done.parity[0].limit:.0e}"]
    without = ", ".join(f"{name}: {count}" for name, count in done.without_cuda_kernel.items())
    lines.append(
        f"no kernel in ONNX Runtime's CUDA provider, so on the CPU beside a GPU: {without}"
        if without
        else "every node has a kernel in ONNX Runtime's CUDA provider"
    )
    if done.begun_anew:
        lines.append(f"initialised anew, for another number of classes: {', '.join(done.begun_anew)}")
    if as_json:
        print_json(done.model_dump())
    else:
        typer.echo("\n".join([f"{done.file}: {size}, dynamic batch, checked by onnx", *lines]))
