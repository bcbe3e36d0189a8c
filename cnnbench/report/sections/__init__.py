"""The sections of a run's page: one file each, but for those that only list tables."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from cnnbench.analysis.answer import answer
from cnnbench.records.run_folder import Run
from cnnbench.report.answer import Line, figures, lines, question
from cnnbench.report.charts import Chart
from cnnbench.report.chooser import chooser
from cnnbench.report.html import Lead, Page, Section
from cnnbench.report.samples import samples
from cnnbench.report.sections import (
    accuracy,
    input_pipeline,
    limits,
    noise,
    scaling,
    serving,
    speed,
    stages,
    transfer,
)
from cnnbench.report.sections.sources import Sources
from cnnbench.report.table import Table


def counts(sources: Sources) -> Section:
    """Parameters and MACs by every counter."""
    return Section("counts", "Counts and cross-checks", parts=sources.table("models", "counters"))


def choice(sources: Sources) -> Section:
    """Every measured inference case beside bounds that the reader sets."""
    found = chooser(sources.run)
    prose = [
        "What meets all bounds with its whole interval, what may, and what fails. The command cnnbench pick answers "
        "the same, and names the commands that measure what is missing."
    ]
    return Section("pick", "Pick a network and a runtime", prose if found else (), [found] if found else ())


def precisions(sources: Sources) -> Section:
    """What ran in which number format."""
    return Section("precisions", "Precisions", parts=sources.table("precisions"))


def raw_samples(sources: Sources) -> Section:
    """Every sample of any case in the order of time."""
    found = samples(sources.records)
    prose = [
        "All figures above are computed from these samples. Steps and drifts usually come from the machine (other "
        "processes, clock frequency, temperature), not from the model."
    ]
    return Section("samples", "Raw samples", prose, [found]) if found.cases else Section("samples", "Raw samples")


SECTIONS = (
    noise.section,
    choice,
    speed.runtimes,
    precisions,
    limits.section,
    speed.times,
    accuracy.section,
    serving.section,
    speed.batches,
    stages.training,
    transfer.section,
    scaling.section,
    input_pipeline.section,
    stages.memory,
    counts,
    stages.start,
    raw_samples,
)
"""In the order of the page."""
DECIDES = ("accuracy", "runtimes")
"""The sections whose first chart stands first."""


def run_page(run: Run, tables: Sequence[Table]) -> Page:
    """The page of a run: its answer, then sections; those that would be empty are left out."""
    sources = Sources(run, tables)
    found = [section(sources) for section in SECTIONS]
    answered = answer(run)
    chart, prose = None, ""
    for decisive in (section for id_ in DECIDES for section in found if section.id == id_):
        if chart := next((part for part in decisive.parts if isinstance(part, Chart)), None):
            rest = replace(decisive, parts=[part for part in decisive.parts if part is not chart])
            prose = "" if rest.parts else " ".join(rest.prose)
            found[found.index(decisive)] = replace(rest, prose=()) if prose else rest
            break
    where = run.environment.label if run.environment else "an unknown machine"
    subject, *said = lines(answered)
    said += [Line("Chart", prose)] if prose else []
    return Page(
        title=question(answered),
        subtitle=f"{run.suite} on {where}, {_when(run.started)}",
        sections=[section for section in found if section.prose or section.parts],
        warnings=run.unreadable,
        lead=Lead(figures(answered), [Line("Measured", subject.text), *said], chart),
    )


def _when(started: str) -> str:
    """A time to read, from ISO 8601; anything else is kept."""
    with suppress(ValueError):
        return f"{datetime.fromisoformat(started):%Y-%m-%d}"
    return started
