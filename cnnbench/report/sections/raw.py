"""The raw samples."""

from cnnbench.report.html import Section
from cnnbench.report.samples import samples
from cnnbench.report.sections.sources import Sources


def section(sources: Sources) -> Section | None:
    """Every sample of any case in the order of time."""
    found = samples(sources.records)
    if not found.cases:
        return None
    return Section(
        id="samples",
        heading="The raw samples",
        prose=["Every figure above comes from these. A level that steps or drifts is the machine, not the model."],
        parts=[found],
    )
