"""Layers against float64: what each run adds and inherits, and the first layer that rounding does not explain."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cnnbench.analysis.divergence import LayerErrors, growth
from cnnbench.records.task_messages import Value
from cnnbench.report.format import NONE, significant
from cnnbench.report.plain import lines_of
from cnnbench.runner.tasks.diverge import OTHER_PROGRAM, Divergence, LayerRun

MAX_ROWS = 10
"""Of a run's layers in text: those that add most beyond what rounding explains."""


CAUSES = {
    "shape": "another shape",
    "overflow": "infinite values: more than the format holds, or a division by zero",
    "nan": "values that are no numbers",
    "permuted": "the same values in other places: another layout",
    "border": "wrong at the border alone: another padding",
    "shifted": "the reference's values some places further: another padding",
    "activation-missing": "right once values are cut off as the reference's are: its activation is missing or another",
    "saturated": "right but for values cut off: saturation, or an activation too many",
    "zero": "nothing but zeros",
    "bias": "off by one number in each channel: another or no bias",
    "scale": "off by a factor and a number in each channel: another constant or epsilon of a normalisation",
    "channels": "wrong in a few channels alone: another constant",
    "few-levels": "at most 256 different values: eight bits",
    "bfloat16": "no more bits than bfloat16 has: reduced precision",
    "float16": "no more bits than float16 has: reduced precision",
}
"""By the word for a cause."""


def as_json(found: Divergence) -> dict[str, Any]:
    """All of it for programs; null where there is no number."""
    return {
        "model": found.model,
        "batch": found.batch,
        "exported_program_off_by": found.off,
        "values": [{"layer": layer_of(value, found.model), **value.model_dump()} for value in found.values],
        "runs": [_run_as_json(found, run) for run in found.runs],
    }


def _run_as_json(found: Divergence, run: LayerRun) -> dict[str, Any]:
    first, layers = run.first, []
    for layer in run.layers:
        numbers = {name: None if value in (float("inf"),) else value for name, value in asdict(layer).items()}
        numbers |= {"is_wrong": layer.is_wrong, "operator": run.operators[layer.place]}
        with_it = [found.values[place].name for place in run.members[layer.place]]
        layers.append({**numbers, "computed_with": with_it, "cause": run.causes.get(layer.place)})
    return {
        "name": run.name,
        "first_wrong": None if first is None else first.place,
        "verdict": verdict(found, run),
        "asking_changed_outputs_by": run.asked,
        "layers": layers,
        "unoptimised": _run_as_json(found, run.unfused) if run.unfused else None,
    }


def layer_of(value: Value, model: str) -> str:
    """A value's layer in words: `layer1.0.relu`, and the operation where the module is the whole model."""
    return value.module or f"{model} itself, {value.operator}"


def verdict(found: Divergence, run: LayerRun) -> str:
    """Where the run parts from float64, in one sentence or two."""
    accused = run.accused
    if accused is None:
        return f"no layer adds more than rounding explains{_grown(found, run)}"
    where, layer = accused
    said = _accused(found, where, layer)
    if where is not run:
        assert run.first is not None
        return f"{said}. Optimised, it is part of {run.operators[run.first.place]}"
    if run.unfused and run.unfused.first is None:
        return f"{said}. Unoptimised, no layer of the graph is wrong: its optimisation is at fault"
    return said


def _accused(found: Divergence, run: LayerRun, layer: LayerErrors) -> str:
    value = found.values[layer.place]
    others = [found.values[place] for place in run.members[layer.place]]
    with_it = ", ".join(dict.fromkeys(layer_of(each, found.model) for each in others if each.module != value.module))
    added = "no numbers" if layer.added is None else f"an error of {_share(layer.added)} of its signal"
    rounding = f"rounding explains {_share(layer.limit)}"
    if layer.added is not None and layer.added <= layer.limit:
        rounding += f", and in single values {layer.excess:.2g} times what it explains"
    wrong = sum(each.is_wrong for each in run.layers)
    more = f"; {wrong - 1} later layers are wrong too" if wrong > 1 else ""
    cause = CAUSES.get(run.causes.get(layer.place, ""))
    return (
        f"begins at {layer_of(value, found.model)} ({run.operators[layer.place]}"
        f"{f', computed with {with_it}' if with_it else ''}): fed with the reference's values it adds {added}, where "
        f"{rounding}{f'; {cause}' if cause else ''}{more}"
    )


def _grown(found: Divergence, run: LayerRun) -> str:
    """Where the error, small in each layer, has become large."""
    grown = growth(run.layers)
    if not grown:
        return ""
    steps = ", ".join(
        f"{_share(step)} of the signal at {layer_of(found.values[each.place], found.model)}" for step, each in grown
    )
    return f"; what they add grows on the way: {steps}"


def other_program(found: Divergence) -> list[str]:
    """That the layers are not the model's, if that is so."""
    if not found.is_other_program:
        return []
    return [
        f"{OTHER_PROGRAM}, by {_share(found.off or 0.0)} of their signal: it takes another path when it is exported"
    ]


def text(found: Divergence) -> Iterator[str]:
    """The same for people, line by line."""
    yield f"{found.model}, {found.batch} images, each layer against float64; errors in units of the layer's RMS"
    yield from other_program(found)
    for run in found.runs:
        yield f"\n{run.name}: {verdict(found, run)}"
        yield f"  {len(run.layers)} of {len(found.values)} values exist as it is shipped{_asked(run)}"
        worst = sorted(run.layers, key=lambda layer: layer.excess, reverse=True)[:MAX_ROWS]
        chosen = {id(layer) for layer in (*worst, *run.layers[-1:])}
        yield from lines_of([_row(found, run, layer) for layer in run.layers if id(layer) in chosen])


def _asked(run: LayerRun) -> str:
    if run.asked is None:
        return ""
    if not run.asked:
        return "; with and without asking for them, the outputs are the same bits"
    return f"; asking for them changed the outputs by up to {run.asked:.1e}"


def _row(found: Divergence, run: LayerRun, layer: LayerErrors) -> dict[str, str]:
    value = found.values[layer.place]
    return {
        "layer": layer_of(value, found.model),
        "operation": value.operator,
        "computed by": run.operators[layer.place],
        "SNR dB": NONE if layer.snr_db is None else f"{layer.snr_db:.1f}",
        "cosine": NONE if layer.cosine is None else f"{layer.cosine:.6f}",
        "largest error": NONE if layer.largest is None else f"{layer.largest:.1e}",
        "inherited": NONE if layer.inherited is None else f"{layer.inherited:.1e}",
        "added": NONE if layer.added is None else f"{layer.added:.1e}",
        "rounding": f"{layer.limit:.1e}",
        "NaN, inf": f"{layer.nan}, {layer.infinite}" if layer.nan + layer.infinite else "",
        "": "wrong" if layer.is_wrong else "",
    }


def _share(value: float) -> str:
    """An error in units of the signal: 2.5 times, 12 %, or a power of ten."""
    if value >= 1:
        return f"{significant(value, 2)} times"
    return f"{significant(100 * value, 2)} %" if value >= 1e-4 else f"{value:.1e}"
