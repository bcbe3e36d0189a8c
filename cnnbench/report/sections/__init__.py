"""The sections of a run's page: one file each, but for those that only list tables."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from cnnbench.records.run_folder import Run
from cnnbench.report.html import Page, Section
from cnnbench.report.samples import samples
from cnnbench.report.sections import accuracy, limits, noise, scaling, speed, stages, transfer
from cnnbench.report.sections.sources import Sources
from cnnbench.report.table import Table


def counts(sources: Sources) -> Section:
    """Parameters and MACs by every counter."""
    return Section("counts", "Counts and cross-checks", parts=sources.table("models", "counters"))


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
    speed.times,
    accuracy.section,
    speed.runtimes,
    limits.section,
    speed.batches,
    stages.training,
    transfer.section,
    scaling.section,
    stages.memory,
    counts,
    stages.start,
    raw_samples,
)
"""In the order of the page."""


def run_page(run: Run, tables: Sequence[Table]) -> Page:
    """The page of a run, from its records and its tables; sections that would be empty are left out."""
    sources = Sources(run, tables)
    found = [section(sources) for section in SECTIONS]
    where = run.environment.label if run.environment else "an unknown machine"
    return Page(
        title=run.suite,
        subtitle=f"Convolutional networks, measured on {where}. Started {_when(run.started)}.",
        sections=[section for section in found if section.prose or section.parts],
        warnings=run.unreadable,
    )


def _when(started: str) -> str:
    """A time to read, from ISO 8601; anything else is kept."""
    with suppress(ValueError):
        return f"{datetime.fromisoformat(started):%Y-%m-%d, %H:%M %Z}"
    return started
