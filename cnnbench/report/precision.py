"""What was made for a precision and what ran of it: a table, and for int8 a sentence that says why it pays or not."""

from collections.abc import Iterable, Mapping, Sequence

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.explain import Explained
from cnnbench.networks.units import MB
from cnnbench.records.record import MEASURED, Ran, Record
from cnnbench.report.format import percent, ratio_text, significant
from cnnbench.report.prose import name_of
from cnnbench.report.table import Column, Table, estimate, figure, hidden, measure, table_of, words
from cnnbench.suite.case import NOISE, Case

CONVERSIONS = (
    *("QuantizeLinear", "DequantizeLinear", "Cast", "Convert", "FakeQuantize", "Reorder"),
    *("quantize_per_tensor", "dequantize_per_tensor"),
)
"""Operators of the executed graph that only change how numbers are written."""
DENSE = ("convolutions", "1x1 convolutions")
"""Kinds of work whose values are read for many output channels each."""
NOTE = (
    "int8 without `calibration` is calibrated on noise, seeded random images: its times are those of any calibration, "
    "its outputs say nothing of trained weights on real images."
)


def precision_table(rows: Sequence[CaseRow], records: Mapping[str, Record]) -> Table:
    """One row for each measured case in another precision than float32."""
    shown = [row for row in rows if row.precision != "fp32" and row.ms is not None]

    def ran(row: CaseRow) -> Ran | None:
        return next((each.ran for each in reversed(records[row.id].launches) if each.ran), None)

    def share(row: CaseRow) -> float | None:
        found = ran(row)
        return found.shares.get(records[row.id].case.format, 0.0) if found and found.shares else None

    def conversions(row: CaseRow) -> int | None:
        found = ran(row)
        return conversions_of(found) if found and found.shares else None

    def agreement(row: CaseRow) -> float | None:
        return min((each.agreement for each in records[row.id].parity if each.agreement is not None), default=None)

    def graph_mb(row: CaseRow) -> float | None:
        graph = records[row.id].graph
        return graph.graph_bytes / MB if graph and graph.graph_bytes else None

    def calibrated_on(row: CaseRow) -> str | None:
        case = records[row.id].case
        return case.calibration if case.is_quantised else None

    columns: list[Column[CaseRow]] = [
        words("model", lambda r: r.model, axis=True),
        figure("batch", lambda r: r.batch, str, axis=True),
        words("backend", lambda r: r.backend, axis=True),
        *estimate("vs fp32", lambda r: r.vs_fp32, ratio_text),
        measure("MACs as asked", share, percent, "share"),
        figure("conversions", conversions, "{:,.0f}".format),
        figure("graph MB", graph_mb),
        measure("agreement", agreement, percent, "agreement"),
        figure("parity error", lambda r: r.parity_error, "{:.0e}".format),
        Column("calibrated on", calibrated_on, lambda r: calibrated_on(r) or "", is_figure=False),
        words("status", lambda r: r.status),
        hidden("id", lambda r: r.id),
    ]
    caption = (
        "vs fp32: speed as a multiple of the same runtime's in float32, in shared rounds. MACs as asked: share of the "
        "multiply-accumulates that the executed graph does in the asked number format; below half the case is invalid. "
        "conversions: nodes of the executed graph that only change number format or layout. agreement: the least share "
        "of reference images (random, or held-out ones of the data that int8 is calibrated on) whose largest output is "
        "in the same place as float64's; it is no accuracy. parity error: "
        "root mean square of the difference from float64, relative to the RMS of the output's part that depends on the "
        "image; of int8 the sine of the angle to it: 0 for the same but for a factor, 1 for unrelated outputs."
    )
    noisy = any(records[row.id].case.is_quantised and records[row.id].case.calibration == NOISE for row in shown)
    notes = [NOTE] if noisy else []
    return table_of("precisions", "Precisions", caption, shown, columns, status=lambda r: r.status, notes=notes)


def conversions_of(ran: Ran) -> int:
    """How many nodes of the executed graph only change number format or layout."""
    return sum(ran.operators.get(name, 0) for name in CONVERSIONS)


def int8_paragraph(explained: Iterable[Explained], ratios: Mapping[str, float]) -> str:
    """For each int8 case why it is as much faster than float32 as it is; `ratios` are those speeds by id."""
    found = list(explained)
    in_fp32 = {_twin(each.case): each for each in found if each.case.precision == "fp32"}
    return " ".join(
        _sentence(each, in_fp32.get(_twin(each.case)), ratios[each.record.id])
        for each in found
        if each.case.is_quantised and each.record.id in ratios and each.record.status in MEASURED
    )


def _twin(case: Case) -> tuple[object, ...]:
    return (case.group_key, case.runtime, case.layout, case.allocator)


def _sentence(each: Explained, in_fp32: Explained | None, ratio: float) -> str:
    ran = next((launch.ran for launch in reversed(each.record.launches) if launch.ran), None)
    facts = []
    if ran and ran.shares:
        by = ran.facts.get("int8_instructions")
        how = "without instructions for int8 dot products, such as VNNI" if by == "none" else f"by {by}"
        facts.append(f"{percent(ran.shares.get('int8', 0.0))} of its MACs ran in int8, {how}")
    if in_fp32 is not None and (dense := [part for part in in_fp32.parts if part.name in DENSE]):
        facts.append(f"dense convolutions are {percent(sum(part.share for part in dense))} of float32's time")
    peaks = each.peaks
    if peaks and (int8 := peaks.flops_per_s("int8")) and (fp32 := peaks.flops_per_s("fp32")):
        facts.append(f"this machine's int8 peak is {significant(int8 / fp32, 2)} times float32's")
    if ran is not None and (left := conversions_of(ran)):
        facts.append(f"{left} conversions are left between the layers")
    case = each.case
    faster, slower = f"{significant(ratio, 2)} times as fast as", f"{significant(1 / ratio, 2)} times slower than"
    pays = faster if ratio >= 1 else slower
    where = f"{case.label}, {name_of(case.runtime)}, batch {case.batch}"
    return f"{case.precision} is {pays} float32 ({where}): {', '.join(facts)}."
