"""The raw samples."""

from cnnbench.report.html import Section
from cnnbench.report.samples import samples
from cnnbench.report.sections.sources import Sources


def section(sources: Sources) -> Section | None:
    """Every sample of any case in the order of time."""
    found = samples(sources.records)
    prose = [
        "All figures above are computed from these. Steps and drifts are interference, not properties of the model."
    ]
    return Section("samples", "Raw samples", prose, [found]) if found.cases else None
