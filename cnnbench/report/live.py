"""What came out of a run so far: a row for each comparison of runtimes, as it is drawn while the run goes on."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table as RichTable
from rich.text import Text

from cnnbench.analysis.answer import backend_of, left_out
from cnnbench.analysis.times import call_time, speedup
from cnnbench.records.record import Record
from cnnbench.report.answer import joined, left_out_text
from cnnbench.report.format import format_seconds, significant
from cnnbench.suite.case import Case

BAR_WIDTH = 30
AROUND_ROWS = 8
"""Lines of the block beside its rows, and of the terminal below it."""
MIN_ROWS = 3


def title_of(suite: str, cases: Sequence[Case], budget_s: float) -> str:
    """What is going to be measured: `classic: 9 networks, inference and training in eager and ort; 108 cases`."""
    models = list(dict.fromkeys(case.spec.label for case in cases))
    networks = models[0] if len(models) == 1 else f"{len(models)} networks"
    workloads, runtimes = (list(dict.fromkeys(of)) for of in ((c.workload for c in cases), (c.runtime for c in cases)))
    number = f"{len(cases)} case{'s' * (len(cases) != 1)}"
    within = f"{number}, at most {format_seconds(budget_s)}"
    return f"{suite}: {networks}, {joined(workloads)} in {joined(runtimes)}; {within}"


class SoFar:
    """The records of a run as they come, by the work that they share."""

    def __init__(self) -> None:
        self._groups: dict[object, dict[str, Record]] = {}
        self._rows: dict[object, tuple[Text, Text, Text]] = {}
        self._absent: list[Record] = []

    def add(self, record: Record) -> None:
        """One more, or a further launch of one that is here."""
        if record.status == "unavailable":
            self._absent.append(record)
            return
        key = record.case.work_key
        members = self._groups.setdefault(key, {})
        members[record.id] = record
        self._rows[key] = _row(list(members.values()))

    def left_out(self) -> list[str]:
        """A line for each thing that is missing here."""
        return [left_out_text(each) for each in left_out(self._absent)]

    def block(self, title: str, now: str, done: int, total: int, height: int) -> RenderableType:
        """All of it in at most so many lines: the latest rows, what is missing, what is measured now."""
        grid = RichTable.grid(padding=(0, 2))
        grid.add_column(overflow="fold")
        grid.add_column(justify="right", no_wrap=True)
        grid.add_column(overflow="fold")
        room = max(MIN_ROWS, height - AROUND_ROWS)
        rows = list(self._rows.values())
        if rows:
            grid.add_row(Text("measured", "dim"), Text("eager", "dim"), Text("speed as a multiple of eager's", "dim"))
        if len(rows) > room:
            grid.add_row(Text(f"{len(rows) - room} before these", "dim"), Text(), Text())
        for row in rows[-room:]:
            grid.add_row(*row)
        bar = RichTable.grid(padding=(0, 1))
        bar.add_row(ProgressBar(total=max(total, 1), completed=done, width=BAR_WIDTH), f"{done}/{total}")
        missing = [Text(line, "dim") for line in self.left_out()]
        return Group(Text(title, "bold"), grid, *missing, bar, Text(now, overflow="ellipsis", no_wrap=True))


def _row(records: Sequence[Record]) -> tuple[Text, Text, Text]:
    """The work, eager's time, and how many times as fast the others are."""
    case = records[0].case
    unusual = [part for part in (case.device, case.precision) if part not in ("cpu", "fp32")]
    label = " ".join([case.label, case.workload, *unusual, f"batch {case.batch}"])
    reference = next((record for record in records if record.case.is_reference), None)
    time = call_time(reference) if reference else None
    parts = [_beside(record, reference) for record in records if record is not reference]
    eager = Text(f"{significant(time.value * 1e3)} ms" if time else "")
    if reference is not None and reference.status in ("failed", "invalid"):
        eager = Text(reference.status, "red")
    return Text(label), eager, Text("  ").join(parts)


def _beside(record: Record, reference: Record | None) -> Text:
    name = "/".join(backend_of(record.case))
    if record.status in ("failed", "invalid"):
        return Text(f"{name} {record.status}", "red")
    ratio = speedup(record, reference) if reference else None
    if ratio is not None:
        faster, slower = ratio.low is not None and ratio.low > 1, ratio.high is not None and ratio.high < 1
        return Text(f"{name} ×{ratio.value:.2f}", "green" if faster else "red" if slower else "")
    time = call_time(record)
    return Text(f"{name} {significant(time.value * 1e3)} ms" if time else f"{name} {record.status}")
