"""Commands about a history: what was measured of each commit, kept and judged over time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli.common import EXIT_NOT_ALL_MEASURED, Json
from cnnbench.errors import InputError
from cnnbench.report.plain import print_json, print_rows

if TYPE_CHECKING:
    from cnnbench.history.collect import Collected

app = typer.Typer(help="What was measured of each commit, over time.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The history's folder.")]
MAX_NOTES = 20
CaseGlob = Annotated[str, typer.Option("--case", metavar="GLOB", help="Only cases whose id matches.")]

Joined = Annotated[
    bool, typer.Option("--joined", help="One index of each case across all machines, instead of one for each machine.")
]


@app.command()
def add(
    folder: Folder,
    measured: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of gates or runs.")],
) -> None:
    """Add gates and runs, each at its commit, which the repository around the current folder must have.

    Example: cnnbench history add history runs/gate-smoke-20260101-120000
    """
    from cnnbench.history.collect import entries_of

    for each in [entries_of(each, Path.cwd()) for each in measured]:
        keep(folder, each)


def keep(folder: Path, collected: "Collected") -> None:
    """Add entries and say how many, and what is left out."""
    from cnnbench.history.store import add as store

    for line in collected.left_out[:MAX_NOTES]:
        typer.echo(f"note: not in the history: {line}", err=True)
    if len(collected.left_out) > MAX_NOTES:
        typer.echo(f"note: and {len(collected.left_out) - MAX_NOTES} more", err=True)
    added = store(folder, collected.entries)
    known = len(collected.entries) - len(added)
    typer.echo(f"{len(added)} entries added to {folder}" + (f"; {known} were there" if known else ""))


@app.command(name="import")
def import_(
    folder: Folder,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The other tool's file or folder.")],
    tool: Annotated[str, typer.Option("--from", metavar="TOOL", help="asv, github-action, or pytest-benchmark.")],
) -> None:
    """Add times that another tool kept. They are of separate runs, and are marked as such.

    Example: cnnbench history import history .asv/results --from asv
    """
    from cnnbench.history.imports import import_from

    keep(folder, import_from(tool, source, Path.cwd()))


@app.command(name="list")
def list_(folder: Folder, case: CaseGlob = "*", as_json: Json = False) -> None:
    """List what is kept, the oldest commit first.

    Example: cnnbench history list history --case 'resnet*'
    """
    from fnmatch import fnmatchcase

    from cnnbench.history.store import read_history

    history = read_history(folder)
    warn(history.unreadable)
    entries = [entry for entry in history.entries if fnmatchcase(entry.case, case)]
    if as_json:
        print_json([{"id": entry.id, **entry.model_dump(mode="json", exclude_defaults=True)} for entry in entries])
        return
    print_rows(
        [
            {
                "committed": f"{entry.committed:%Y-%m-%d %H:%M}",
                "commit": entry.commit[:12],
                "base": (entry.base or "")[:12],
                "machine": entry.machine,
                "kind": entry.tool or entry.kind,
                "case": entry.case,
                "what": entry.summary,
            }
            for entry in entries
        ]
    )


@app.command()
def show(
    folder: Folder,
    case: CaseGlob = "*",
    joined: Joined = False,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write a page with charts, in one file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how the time of each case has changed: its chained index, and the commits with which it changed.

    Ten lines; --page has all. Changes that `acknowledged.yaml` in the folder names are told as such.

    Example: cnnbench history show history --case 'resnet*'
    """
    from cnnbench.history.overview import overview
    from cnnbench.records import files
    from cnnbench.report.history import lines_of, rows_of

    found = overview(folder, case, joined=joined)
    warn(found.warnings)
    if page is not None:
        from cnnbench.report.history_page import page_of
        from cnnbench.report.html import html

        try:
            files.write(page, html(page_of(found)))
        except OSError as error:
            raise InputError(f"--page: expected a file that can be written; got {page}: {error.strerror}") from None
    if as_json:
        print_json(rows_of(found))
        return
    typer.echo("\n".join(lines_of(found)))


@app.command()
def tell(folder: Folder, case: CaseGlob = "*", joined: Joined = False) -> None:
    """Print, in Markdown, the open changes that were not reported before, and remember that they were.

    Nothing is printed if there are none. `told.jsonl` in the folder has those that were reported.

    Example: cnnbench history tell history > comment.md
    """
    from cnnbench.history.changes import not_told, remember
    from cnnbench.history.overview import overview
    from cnnbench.report.history import markdown_of

    found = overview(folder, case, joined=joined)
    warn(found.warnings)
    if new := not_told(folder, found.changes.open):
        typer.echo(markdown_of(new))
        remember(folder, new)


@app.command()
def check(folder: Folder) -> None:
    """Find lines that are damaged, altered, doubled, out of order, or of commits that this repository has not.

    Exit code 3 if there are any.

    Example: cnnbench history check history
    """
    from cnnbench.history.store import check as faults_of
    from cnnbench.history.store import read_history

    faults = faults_of(folder, _known())
    for fault in faults:
        typer.echo(str(fault))
    typer.echo(f"{len(read_history(folder).entries)} entries in {folder}, {len(faults)} faults")
    if faults:
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


@app.command()
def prune(
    folder: Folder,
    before: Annotated[
        str | None, typer.Option(metavar="DATE", help="Drop entries of commits before this day, such as 2026-01-31.")
    ] = None,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Drop entries of commits that this repository has not.")
    ] = False,
) -> None:
    """Drop lines that stand twice, and entries that are too old or whose commits are gone. Damaged lines stay.

    Example: cnnbench history prune history --before 2025-12-31
    """
    from datetime import date, datetime

    from cnnbench.history.entry import Entry
    from cnnbench.history.store import rewrite

    try:
        oldest = datetime.combine(date.fromisoformat(before), datetime.min.time()).astimezone() if before else None
    except ValueError:
        raise InputError(f"--before: expected a day such as 2026-01-31; got {before!r}") from None
    known = _known() if unknown else None
    if unknown and known is None:
        raise InputError("--unknown: expected to be in the git repository whose commits the history is of; got none")

    def is_kept(entry: Entry) -> bool:
        commits = [commit for commit in (entry.commit, entry.base) if commit]
        return (oldest is None or entry.committed >= oldest) and (known is None or all(map(known, commits)))

    dropped, doubled = rewrite(folder, is_kept)
    typer.echo(f"{dropped} entries and {doubled} doubled lines dropped from {folder}")


def _known() -> Callable[[str], bool] | None:
    """Whether the repository around the current folder has a commit, by its whole hash or its beginning."""
    from cnnbench.runner import git

    try:
        commits = git.known_commits(Path.cwd())
    except git.GitError:
        return None
    starts = {commit[:7] for commit in commits}
    return lambda commit: commit in commits or (len(commit) < 40 and commit[:7] in starts)


def warn(lines: Sequence[str]) -> None:
    """On standard error."""
    for line in lines:
        typer.echo(f"warning: {line}", err=True)
