"""Services in tables: the highest rate within the bound, what else LoadGen measured, and latency by offered rate."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from cnnbench.analysis.serving import Service, service_of
from cnnbench.records.record import Record
from cnnbench.records.serving import MIN_DURATION_S, MIN_QUERIES_P99, LoadTest
from cnnbench.report.format import NONE, percent, ratio_text, significant
from cnnbench.report.reasons import reasons_text
from cnnbench.report.table import Column, Table, estimate, figure, hidden, measure, table_of, words

MS, US = 1e3, 1e6
NOT_MLPERF = "These are LoadGen scenarios, not MLPerf results."


class Served(NamedTuple):
    """A case of the workload serving, and what was found out about it."""

    record: Record
    service: Service | None


class RateRow(NamedTuple):
    """All tests of a case at one rate."""

    record: Record
    rate: float
    tests: Sequence[LoadTest]

    @property
    def is_valid(self) -> bool:
        """Whether LoadGen calls all of them VALID."""
        return all(test.valid for test in self.tests)

    @property
    def worst(self) -> LoadTest:
        """The slowest of them."""
        return max(self.tests, key=lambda test: test.p90_s)

    @property
    def p99_s(self) -> float | None:
        """Of that; None where too few queries were answered to tell it."""
        return self.worst.p99_s if self.worst.queries >= MIN_QUERIES_P99 else None


def served(records: Sequence[Record]) -> list[Served]:
    """The cases of the workload serving, measured or not."""
    return [Served(each, service_of(each.launches)) for each in records if each.case.workload == "serving"]


def rate_rows(records: Sequence[Record]) -> list[RateRow]:
    """The curve of each case, from the lowest rate to the highest."""
    return [
        RateRow(each.record, rate, tests)
        for each in served(records)
        if each.service is not None
        for rate, tests in each.service.searched.items()
    ]


def serving_tables(records: Sequence[Record]) -> list[Table]:
    """All tables of services; those without rows too."""
    rows = served(records)
    return [_rates(rows), _scenarios([row for row in rows if row.service is not None]), _curve(rate_rows(records))]


def rate_text(service: Service) -> str:
    """The interval of the highest rate: `[35.2, 37.0)`."""
    if service.valid is None:
        return NONE
    return f"[{significant(service.valid)}, {'?' if service.invalid is None else significant(service.invalid)})"


Row = TypeVar("Row", Served, RateRow)


def _axes(rows: Sequence[Row]) -> list[Column[Row]]:
    """Of a case; how it is served where that differs from the default."""
    cases = [row.record.case for row in rows]
    columns: list[Column[Row]] = [
        words("model", lambda r: r.record.case.spec.label, axis=True),
        words("backend", lambda r: r.record.case.backend, axis=True),
        figure("batch", lambda r: r.record.case.batch, str, axis=True),
    ]
    if any(case.sessions > 1 for case in cases):
        columns.append(figure("sessions", lambda r: r.record.case.sessions, str, axis=True))
    if any(case.threads for case in cases):
        columns.append(figure("threads", lambda r: r.record.case.threads, str, axis=True))
    if any(case.delay_ms for case in cases):
        columns.append(figure("delay ms", lambda r: r.record.case.delay_ms, axis=True))
    return columns


def _rates(rows: Sequence[Served]) -> Table:
    """The highest rate within the bound, one row for each case."""
    pairs = dict.fromkeys((row.record.status, reasons_text(row.record.reasons)) for row in rows if row.record.reasons)
    numbers = {pair: number for number, pair in enumerate(pairs, start=1)}

    def status(row: Served) -> str:
        number = numbers.get((row.record.status, reasons_text(row.record.reasons)))
        return f"{row.record.status} [{number}]" if number else row.record.status

    def at_bound(percentile: str) -> Column[Served]:
        def value(row: Served) -> float | None:
            tests = row.service.at_bound if row.service else []
            return max((MS * getattr(test, f"{percentile}_s") for test in tests), default=None)

        return figure(f"{percentile} ms", value)

    columns: list[Column[Served]] = [
        *_axes(rows),
        hidden("id", lambda r: r.record.id),
        figure("bound ms", lambda r: r.service.bound_s * MS if r.service else None),
        Column(
            "queries/s",
            lambda r: r.service.valid if r.service else None,
            lambda r: rate_text(r.service) if r.service else NONE,
        ),
        hidden("queries/s_invalid", lambda r: r.service.invalid if r.service else None),
        figure("confirmed", lambda r: r.service.confirmed if r.service else None, str),
        *map(at_bound, ("p50", "p90", "p99")),
        figure("offline images/s", lambda r: r.service.offline_per_s if r.service else None),
        figure("efficiency", lambda r: r.service.efficiency if r.service else None, percent),
        figure("CPUs", lambda r: r.service.cpus if r.service else None, "{:.2f}".format),
        words("status", status),
    ]
    durations = {test.min_s for row in rows if row.service for launch in row.service.launches for test in launch.tests}
    caption = (
        f"{NOT_MLPERF} queries/s: the highest rate of Poisson arrivals that LoadGen calls VALID, and the lowest that "
        "it calls INVALID: p99 of the latency from the scheduled arrival within the bound at 99 % confidence. "
        "confirmed: launches in which that rate was VALID. p50, p90, p99: at that rate. offline: all images at once. "
        "efficiency: the rate as a share of offline. CPUs: busy at that rate, LoadGen's threads included."
    )
    if durations:
        low, high = significant(min(durations)), significant(max(durations))
        span = low if low == high else f"{low} to {high}"
        caption += (
            f" Minimal numbers of queries are LoadGen's; minimal durations are scaled to the budget: {span} s instead "
            f"of {MIN_DURATION_S:.0f} s."
        )
    notes = [f"[{number}] {status_}: {reason}" for (status_, reason), number in numbers.items()]
    return table_of("serving", "Serving", caption, rows, columns, status=lambda row: row.record.status, notes=notes)


def _scenarios(rows: Sequence[Served]) -> Table:
    """The other scenarios, and what checks and costs say."""

    def of(row: Served, scenario: str, name: str) -> float | None:
        tests = row.service.of(scenario) if row.service else []  # type: ignore[arg-type]
        known = [value for test in tests if test.valid and (value := getattr(test, name)) is not None]
        return MS * max(known) if known else None

    columns: list[Column[Served]] = [
        *_axes(rows),
        figure("single p50 ms", lambda r: of(r, "single", "p50_s")),
        figure("single p90 ms", lambda r: of(r, "single", "early_s")),
        figure("multi p99 ms", lambda r: of(r, "multi", "early_s")),
        figure("batch formed", lambda r: r.service.batch_formed if r.service else None, "{:.2f}".format),
        figure("LoadGen µs", lambda r: r.service.loadgen_s * US if r.service else None, key="loadgen_us"),
        figure("arrival µs", lambda r: r.service.arrival_s * US if r.service else None, key="arrival_us"),
        figure("with queue µs", lambda r: r.service.queue_s * US if r.service else None, key="queue_us"),
        *estimate("server / single", lambda r: r.service.low_load if r.service else None, ratio_text, "low_load"),
        *estimate("own / LoadGen", lambda r: r.service.timers if r.service else None, ratio_text, "timers"),
    ]
    caption = (
        f"{NOT_MLPERF} single: one query after the other; its p90 is early stopping's estimate, as is multi's p99, "
        "whose queries have eight images; – where LoadGen calls the test INVALID. batch formed: images in a call at "
        "the highest VALID rate. LoadGen µs: its cost per query with an empty system under test; arrival: how late it "
        "issues a query of the server scenario; with queue: its cost with queue and threads of the service; none is "
        "subtracted anywhere. server / single: median latencies at a tenth of the single stream's rate, in "
        "interleaved pairs; own / LoadGen: medians of one test by both clocks [95 % intervals]."
    )
    return table_of("loadgen", "LoadGen's scenarios and checks", caption, rows, columns)


def _curve(rows: Sequence[RateRow]) -> Table:
    """Latency by offered rate."""
    columns: list[Column[RateRow]] = [
        *_axes(rows),
        figure("offered/s", lambda r: r.rate, key="offered_per_s"),
        figure("answered/s", lambda r: r.worst.per_s, key="answered_per_s"),
        figure("p50 ms", lambda r: r.worst.p50_s * MS),
        figure("p90 ms", lambda r: r.worst.p90_s * MS),
        measure("p99 ms", lambda r: None if r.p99_s is None else r.p99_s * MS),
        figure("queries", lambda r: sum(test.queries for test in r.tests), "{:,.0f}".format),
        figure("tests", lambda r: len(r.tests), str),
        words("LoadGen says", lambda r: "VALID" if r.is_valid else "INVALID"),
    ]
    caption = (
        f"{NOT_MLPERF} Latency from the scheduled arrival, of the slowest test of a rate. p99 needs "
        f"{MIN_QUERIES_P99} answered queries; a test that is lost ends before."
    )
    return table_of("curve", "Latency by offered rate", caption, rows, columns)
