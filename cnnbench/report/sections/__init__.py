"""The sections of a run's page, one file each: from what was measured to what it says."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from cnnbench.records.run_folder import Run
from cnnbench.report.html import Page, Section
from cnnbench.report.sections import (
    accuracy,
    batches,
    counts,
    headline,
    memory,
    quiet,
    raw,
    runtimes,
    start,
    training,
    why,
)
from cnnbench.report.sections.sources import Sources
from cnnbench.report.tables import Table

SECTIONS = (
    quiet.section,
    headline.section,
    accuracy.section,
    runtimes.section,
    why.section,
    batches.section,
    training.section,
    memory.section,
    counts.section,
    start.section,
    raw.section,
)
"""In the order of the page; one that has nothing to say of a run is left out."""


def run_page(run: Run, tables: Sequence[Table]) -> Page:
    """The page of a run, from its records and its tables."""
    sources = Sources(run, tables)
    found: list[Section | None] = [section(sources) for section in SECTIONS]
    where = run.environment.label if run.environment else "an unknown machine"
    return Page(
        title=run.suite,
        subtitle=f"Convolutional networks, measured on {where}. Started {_when(run.started)}.",
        sections=[section for section in found if section is not None],
        warnings=run.unreadable,
    )


def _when(started: str) -> str:
    """A time to read, from ISO 8601; what is none stays as it is."""
    with suppress(ValueError):
        return f"{datetime.fromisoformat(started):%Y-%m-%d, %H:%M %Z}"
    return started
