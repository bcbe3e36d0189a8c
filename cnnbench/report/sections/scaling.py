"""Training on several ranks beside one."""

from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources


def section(sources: Sources) -> Section:
    """How much slower a step is, and why."""
    return Section("scaling", "Training on several ranks", parts=sources.table("scaling"))
