"""Parameters and MACs by every counter."""

from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources


def section(sources: Sources) -> Section | None:
    """The models' table, and the cross-checks."""
    tables = sources.table("models", "counters")
    return Section("counts", "Counts and cross-checks", parts=tables) if tables else None
