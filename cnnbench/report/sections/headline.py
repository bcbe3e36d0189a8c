"""The headline: every case, in the tables that stand in the terminal too."""

from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources


def section(sources: Sources) -> Section | None:
    """Times of inference and training, all cases, sorted and filtered by the reader."""
    tables = [*sources.table("inference"), *sources.table("training")]
    if not tables:
        return None
    return Section(
        id="times",
        heading="How fast",
        prose=[
            "A heading sorts. Runtimes that share a rank, marked =, cannot be told apart. A row that is struck out was "
            "measured but is no result: its note says why, and it enters no comparison."
        ],
        parts=tables,
    )
