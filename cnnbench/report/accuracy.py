"""The accuracy of what was timed: a table."""

from collections.abc import Mapping, Sequence

from cnnbench.analysis.cases import CaseRow
from cnnbench.analysis.evaluation import accuracy, mcnemar, verdict, versus_float32
from cnnbench.analysis.stats import Estimate
from cnnbench.records.evaluation import Evaluation
from cnnbench.records.record import Record
from cnnbench.report.format import accuracy_text, percent
from cnnbench.report.table import Column, Table, estimate, figure, hidden, table_of, words

POINTS = 100
"""Percentage points in all."""


def accuracy_table(rows: Sequence[CaseRow], records: Mapping[str, Record]) -> Table:
    """One row for each case that was evaluated on a data set's test images."""
    known = {id_: each.evaluation for id_, each in records.items() if each.evaluation and not each.evaluation.problem}
    shown = [row for row in rows if row.id in known]

    def of(row: CaseRow) -> Evaluation:
        found = known[row.id]
        assert found is not None
        return found

    def compared(row: CaseRow) -> Evaluation | None:
        return found if (found := of(row)).reference not in ("", row.backend) else None

    def difference(row: CaseRow) -> Estimate | None:
        found = compared(row)
        change = versus_float32(found) if found else None
        return change.scaled(POINTS) if change else None

    def p(row: CaseRow) -> float | None:
        return mcnemar(found.only_this, found.only_reference) if (found := compared(row)) else None

    def agreement(row: CaseRow) -> float | None:
        return found.same_class / found.images if (found := compared(row)) else None

    def spread(row: CaseRow) -> str | None:
        if not (found := of(row)).draws:
            return None
        shares = [POINTS * each / found.images for each in (found.correct, *found.draws)]
        return f"{min(shares):.1f} to {max(shares):.1f} of {len(shares)}"

    columns: list[Column[CaseRow]] = [
        words("model", lambda r: r.model, axis=True),
        figure("batch", lambda r: r.batch, str, axis=True),
        words("backend", lambda r: r.backend, axis=True),
        *estimate("ms", lambda r: r.ms, lambda each: f"{each.value:.3g}"),
        words("data", lambda r: of(r).data),
        figure("images", lambda r: of(r).images, "{:,.0f}".format),
        *estimate("top-1 %", lambda r: accuracy(of(r).correct, of(r).images).scaled(POINTS), accuracy_text, "top1"),
        Column("draws %", spread, lambda r: spread(r) or "", "draws", is_figure=False),
        words("float32", lambda r: of(r).reference or None),
        *estimate("difference", difference, _in_points),
        figure("p", p, "{:.2g}".format),
        figure("same class", agreement, percent),
        Column("99 %", lambda r: _verdict(compared(r)), lambda r: _verdict(compared(r)), "verdict", is_figure=False),
        hidden("only_this", lambda r: of(r).only_this),
        hidden("only_reference", lambda r: of(r).only_reference),
        hidden("id", lambda r: r.id),
    ]
    caption = (
        "Measured here on test images, with the artifact that was timed, in its runtime and precision; once for cases "
        "that differ in batch alone. top-1: share of images that are put into the right class [95 % interval, Wilson]. "
        "draws: the least and the largest top-1 of graphs that were calibrated with several draws of training images, "
        "this one among them. float32: what it is compared with on the same images: the same runtime, or of float32 "
        "PyTorch. difference: of the two accuracies, in percentage points [95 % interval for pairs, Newcombe]; p: "
        "McNemar's exact test. same class: share of images that both put into one class, right or wrong. 99 %: whether "
        "99 % of float32's accuracy is kept: meets or fails with the whole interval of the difference, else undecided."
    )
    return table_of("accuracy", "Accuracy of what was timed", caption, shown, columns, status=lambda r: r.status)


def _verdict(found: Evaluation | None) -> str:
    return (verdict(found) or "") if found else ""


def _in_points(each: Estimate) -> str:
    return f"{each.value:+.1f} [{each.low:+.1f}, {each.high:+.1f}]"
