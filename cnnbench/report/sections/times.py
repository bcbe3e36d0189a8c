"""Times of every case, in the tables that stand in the terminal too."""

from cnnbench.report.html import Section
from cnnbench.report.sections.sources import Sources


def section(sources: Sources) -> Section | None:
    """Inference and training, sorted and filtered by the reader."""
    tables = sources.table("inference", "training")
    prose = [
        "Click a heading to sort. Backends that share a rank, marked =, do not differ significantly. Struck-out rows "
        "were measured but are invalid: the note gives the reason, and they enter no comparison."
    ]
    return Section("times", "Latency and throughput", prose, tables) if tables else None
