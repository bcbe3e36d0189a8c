"""Parameters and MACs, and every witness of them."""

from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources


def section(sources: Sources) -> Section | None:
    """The models' table, and what each witness counted."""
    tables = [*sources.table("models"), *sources.table("counters")]
    if not tables:
        return None
    return Section(id="counts", heading="Counts, and their witnesses", parts=tables)
