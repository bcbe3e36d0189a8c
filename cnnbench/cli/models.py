"""Commands about models: what there is, what they are made of, and whether their counts agree."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.common import EXIT_DISAGREE, Classes, ImageSize, Json, WhatIf, architecture_of, parse, size_of, spec
from cnnbench.cli.train import Momentum, OptimizerName, OptimizerOption, WeightDecay, optimizer_of
from cnnbench.errors import InputError
from cnnbench.networks.units import MB
from cnnbench.report.format import format_seconds
from cnnbench.report.plain import print_json, print_rows

app = typer.Typer()

Batch = Annotated[int, typer.Option(min=1, help="Images; work and output shapes are for all of them.")]


class Listed(StrEnum):
    """What `cnnbench list` can list."""

    models = "models"
    runtimes = "runtimes"
    devices = "devices"
    suites = "suites"


class Exported(StrEnum):
    """What `cnnbench export` can write."""

    inference = "inference"
    training = "training"


@app.command(name="list")
def list_(what: Annotated[Listed, typer.Argument(help="What to list.")], as_json: Json = False) -> None:
    """The models, runtimes, devices or suites that there are; devices are tried, not just looked up.

    Example: cnnbench list models
    """
    from cnnbench.cli import listing

    rows = {
        Listed.models: listing.models,
        Listed.runtimes: listing.runtimes,
        Listed.devices: listing.devices,
        Listed.suites: listing.suites,
    }[what]()
    if as_json:
        print_json(rows)
    else:
        print_rows(rows)


@app.command()
def count(
    models: Annotated[list[str] | None, typer.Argument(help="Names from `cnnbench list models`; all if none.")] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    batch: Batch = 1,
    what_if: WhatIf = None,
    as_json: Json = False,
) -> None:
    """Parameters and MACs in closed form, layer by layer. 1 MAC = 2 FLOP.

    Example: cnnbench count resnet18 mobilenet_v2 --image-size 192
    """
    from cnnbench.networks import registry

    size = size_of(image_size)
    if what_if and not models:
        raise InputError("--what-if: expected a model, such as `cnnbench count mobilenet_v2 --what-if width=0.75`")
    networks = [architecture_of(model, what_if).network(size, classes) for model in models or registry.ARCHITECTURES]
    if as_json:
        totals = [{"model": n.name, "params": n.params, "macs": n.macs * batch} for n in networks]
        print_json([{**total, "layers": n.as_rows(batch)} for total, n in zip(totals, networks, strict=True)])
        return
    if not models:
        print_rows([{"model": n.name, "params": n.params, "macs": n.macs * batch} for n in networks])
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
    model: Annotated[str, typer.Argument(help="A model's name; one without a closed form is read as it runs.")],
    image_size: ImageSize = None,
    classes: Classes = None,
    batch: Batch = 1,
    what_if: WhatIf = None,
    formula: Annotated[
        bool, typer.Option("--formula", help="Totals as expressions in the number of classes and the image size.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Every layer with its formulas and the numbers put in, totals, what training needs, and what dominates.

    Example: cnnbench show resnet18 --batch 8
    """
    from cnnbench.networks import registry
    from cnnbench.report import model_summary

    parse(registry.check_name, model, "MODEL")
    if formula:
        shown = model_summary.formula_of(architecture_of(model, what_if))
        print_json(shown) if as_json else typer.echo(model_summary.formula_text(shown))
        return
    left_out: list[str] = []
    if registry.find(model) or what_if:
        network = architecture_of(model, what_if).network(size_of(image_size), classes)
    else:
        from cnnbench.runner.tasks.trace import read

        reading = read(spec(model, image_size, classes))
        network, left_out = reading.network, reading.left_out
    if as_json:
        print_json(model_summary.as_json(network, batch, left_out))
        return
    for line in model_summary.text(network, batch, left_out):
        typer.echo(line)


@app.command()
def verify(
    models: Annotated[list[str] | None, typer.Argument(help="Models; all that have a closed form if none.")] = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    as_json: Json = False,
) -> None:
    """Every witness of each model's counts side by side: formula, module, torch's counter, fvcore, ONNX graph, papers.

    Exits with 0 only when all agree, layer by layer, but for differences whose reason is known and shown.
    Example: cnnbench verify resnet18 lenet5
    """
    from cnnbench.networks import registry
    from cnnbench.report.cross_checks import lines
    from cnnbench.runner.tasks.verify import verify as verify_models

    specs = [spec(model, image_size, classes) for model in models or registry.ARCHITECTURES]
    start = time.monotonic()
    verdicts = []
    for verdict in verify_models(specs):
        verdicts.append(verdict)
        if not as_json:
            done, elapsed = len(verdicts), time.monotonic() - start
            left = format_seconds(elapsed / done * (len(specs) - done))
            typer.echo("\n".join(lines(verdict, f"{done} of {len(specs)}, about {left} left")))
    if as_json:
        print_json([{**verdict.model_dump(), "agree": verdict.agree} for verdict in verdicts])
    if not all(verdict.agree for verdict in verdicts):
        raise typer.Exit(EXIT_DISAGREE)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A model's name.")],
    out: Annotated[Path, typer.Option(help="The file to write, such as resnet18.onnx.")],
    image_size: ImageSize = None,
    classes: Classes = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights.")] = 0,
    workload: Annotated[
        Exported, typer.Option(help="The network alone, or a whole training step.")
    ] = Exported.inference,
    optimizer: OptimizerOption = OptimizerName.sgd,
    momentum: Momentum = 0.9,
    weight_decay: WeightDecay = 1e-4,
    as_json: Json = False,
) -> None:
    """Export a model to ONNX with a dynamic batch, checked by onnx and proved against float64.

    A training step holds forward, loss, backward and the optimizer's update; the weights that it begins with are
    written beside it. The options of the optimizer are for it alone.
    Example: cnnbench export resnet18 --out resnet18.onnx
    Example: cnnbench export resnet18 --workload training --out resnet18-step.onnx
    """
    from cnnbench.runner.tasks.export import export_model, export_training_step

    if workload is Exported.training:
        chosen = optimizer_of(optimizer, momentum, weight_decay)
        step = export_training_step(spec(model, image_size, classes, seed), out, chosen)
        if as_json:
            print_json(step.model_dump())
            return
        typer.echo(f"{step.file}: {step.nodes:,} nodes, {step.onnx_bytes / MB:.1f} MB, dynamic batch, checked by onnx")
        typer.echo(f"{step.weights}: the weights that it begins with, {step.weight_bytes / MB:.1f} MB")
        for parity in step.parity:
            typer.echo(f"{parity.what}: {parity.error:.1e} off torch in float64, limit {parity.limit:.1e}")
        return
    done = export_model(spec(model, image_size, classes, seed), out)
    if as_json:
        print_json(done.model_dump())
        return
    errors = ", ".join(f"{parity.error:.1e} at {parity.what}" for parity in done.parity)
    typer.echo(f"{done.file}: {done.onnx_bytes / MB:.1f} MB, opset {done.opset}, dynamic batch, checked by onnx")
    typer.echo(f"parity with float64, relative to the signal: {errors}; limit {done.parity[0].limit:.0e}")
