"""Training a part of a model beside training all of it."""

from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources


def section(sources: Sources) -> Section:
    """What was predicted, what was measured, and where the difference is."""
    return Section("transfer", "Training a part", parts=sources.table("transfer"))
