"""Rows of numbers to pandas data frames, and the rows of a run's models: frozen types, units in the fields' names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from cnnbench.analysis.counts import totals_by_counter
from cnnbench.analysis.stats import Estimate
from cnnbench.networks.units import MB
from cnnbench.records.record import Record

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """Counts of a model, whether its counters agree, its sizes, published accuracy, and the time to export it."""

    model: str
    input: str
    params: int
    macs: int
    cross_check: Literal["agree", "DISAGREE"]
    counters: int
    closed_form: bool
    top1_percent: float | None
    weights_mb: float
    onnx_mb: float | None
    export_s: float | None


def model_rows(records: Iterable[Record]) -> list[ModelRow]:
    """One row per model."""
    rows: dict[str, ModelRow] = {}
    for record in records:
        counts, facts = record.counts, record.artifact
        if counts is None or facts is None:
            continue
        rows[record.case.spec.label] = ModelRow(
            model=record.case.spec.label,
            input="x".join(map(str, facts.input_shape)),
            params=counts.params,
            macs=counts.macs,
            cross_check="DISAGREE" if counts.disagreements else "agree",
            counters=len(counts.counters),
            closed_form=counts.closed_form,
            top1_percent=counts.top1_percent,
            weights_mb=facts.weight_bytes / MB,
            onnx_mb=facts.onnx_bytes / MB if facts.onnx_bytes else None,
            export_s=facts.seconds.get("export"),
        )
    return list(rows.values())


Figure = Literal["parameters", "MACs", "backward MACs"]


@dataclass(frozen=True, kw_only=True)
class CounterRow:
    """One figure of a model by every counter; None where a counter does not count it."""

    model: str
    figure: Figure
    closed_form: int | None = None
    module: int | None = None
    dispatch: int | None = None
    fvcore: int | None = None
    onnx: int | None = None
    backward: int | None = None
    published: int | None = None
    """MACs are rounded to a thousandth of 1e9 by their publisher."""


def counter_rows(records: Iterable[Record]) -> list[CounterRow]:
    """Three rows per model: parameters, MACs, and MACs of the backward pass, as far as anything counted them."""
    rows: dict[tuple[str, str], CounterRow] = {}
    for record in records:
        if record.artifact is None:
            continue
        label, totals = record.case.spec.label, totals_by_counter(record.case.spec, record.artifact.counters)
        figures: dict[Figure, dict[str, int]] = {
            "parameters": totals.params,
            "MACs": totals.macs,
            "backward MACs": totals.backward,
        }
        for figure, by_counter in figures.items():
            if by_counter:
                counted = {name.replace(" ", "_"): count for name, count in by_counter.items()}
                rows[label, figure] = CounterRow(model=label, figure=figure, **counted)
    return list(rows.values())


def frame(rows: Sequence[object], of: type) -> "pd.DataFrame":
    """A data frame of rows of one type, a column for each field; an `Estimate` becomes value, `_low` and `_high`.

    Integers stay integers where some are missing.
    """
    import pandas as pd

    columns: dict[str, pd.Series[Any]] = {}
    for name, hint in get_type_hints(of).items():
        values = [getattr(row, name) for row in rows]
        types = set(get_args(hint) or [hint])
        if Estimate in types:
            for end, part in (("", "value"), ("_low", "low"), ("_high", "high")):
                columns[name + end] = pd.Series([getattr(value, part, None) for value in values], dtype="float64")
        elif types == {int, type(None)}:
            columns[name] = pd.Series(values, dtype="Int64")
        else:
            columns[name] = pd.Series(values, dtype="float64" if float in types else None)
    return pd.DataFrame(columns)
