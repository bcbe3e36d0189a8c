"""A run's tables as files beside its records: Markdown to read, CSV to compute with."""

from collections.abc import Sequence
from pathlib import Path

from cnnbench import machine
from cnnbench.report.display import Table
from cnnbench.store import Run

REPORT = "report.md"


def write_report(run: Run, tables: Sequence[Table]) -> Path:
    """`report.md`, and one CSV file per table with all its numbers; gives the report's path."""
    for table in tables:
        table.data.to_csv(run.folder / f"{table.name}.csv", index=False)
    file = run.folder / REPORT
    file.write_text(markdown(run, tables), encoding="utf-8")
    return file


def markdown(run: Run, tables: Sequence[Table]) -> str:
    """The whole report as Markdown."""
    parts = [f"# {run.suite}", *_header(run)]
    for table in tables:
        parts += [
            f"## {table.title}",
            table_markdown(table),
            table.caption,
            *(f"{note}" for note in table.notes),
        ]
    return "\n\n".join(parts) + "\n"


def table_markdown(table: Table) -> str:
    """One table; what stands in cells is data, so Markdown's own marks in it are escaped."""
    cells = table.cells.map(lambda value: str(value).replace("|", "\\|").replace("<", "&lt;"))
    return cells.to_markdown(index=False, disable_numparse=True)


def _header(run: Run) -> list[str]:
    if not run.environment:
        return [f"Started {run.started}."]
    facts, software = run.environment["machine"], run.environment["software"]
    versions = ", ".join(
        f"{name} {software[name]}"
        for name in ("python", "torch", "torchvision", "onnxruntime-gpu", "onnxruntime")
        if name in software
    )
    memory_gib = facts["memory_bytes"] / 2**30
    lines = [
        f"{machine.label(run.environment)}; {facts['affinity_cores']} cores allowed, {memory_gib:.0f} GiB, "
        f"{facts['system']}. "
        f"{versions}. Started {run.started}."
    ]
    if software.get("git_commit"):
        lines.append(f"Commit {software['git_commit']}.")
    return lines
