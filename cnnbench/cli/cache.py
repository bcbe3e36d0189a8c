"""Commands about the cache of artifacts: list, check, delete."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cnnbench.cli.common import EXIT_NOT_ALL_MEASURED, Json, finite
from cnnbench.report.plain import print_json, print_rows
from cnnbench.suite.parse import checked, parse_duration

if TYPE_CHECKING:
    from cnnbench.records.cache import Entry

app = typer.Typer()
commands = typer.Typer(help="List, check or delete cached artifacts (built models).", no_args_is_help=True)
app.add_typer(commands, name="cache")


@commands.command(name="list")
def list_(as_json: Json = False) -> None:
    """List artifacts, the least recently used first.

    Example: cnnbench cache list
    """
    from cnnbench.records import cache

    _print(cache.entries(), as_json)


@commands.command()
def verify(as_json: Json = False) -> None:
    """Check each artifact's content against its digests. Damaged ones are rebuilt when they are needed.

    Exit code 3 if one is damaged.

    Example: cnnbench cache verify
    """
    from cnnbench.records import artifact, cache

    rows = [
        {"artifact": entry.folder.name, "problem": artifact.fault_of(entry.folder) or ""} for entry in cache.entries()
    ]
    (print_json if as_json else print_rows)(rows)
    if any(row["problem"] for row in rows):
        raise typer.Exit(EXIT_NOT_ALL_MEASURED)


@commands.command()
def prune(
    unused: Annotated[
        str | None, typer.Option(help="Delete artifacts unused for at least this time, such as 240h.")
    ] = None,
    size: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="GB",
            callback=finite,
            help="Delete the least recently used artifacts, down to this size in GB.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Delete artifacts by age, size or both; without options, down to the limit that each run keeps to.

    Artifacts used within the last hour are kept, because a run may be using them.

    Example: cnnbench cache prune --unused 240h
    """
    from cnnbench.records import cache

    unused_s = checked(parse_duration, unused, "--unused") if unused else float("inf")
    if size is None and unused is None:
        size = cache.limit_bytes() / 1e9
    _print(cache.prune(float("inf") if size is None else size * 1e9, unused_s), as_json)


def _print(entries: "list[Entry]", as_json: bool) -> None:
    rows = [
        {
            "artifact": entry.folder.name,
            "bytes": entry.size_bytes,
            "used": datetime.fromtimestamp(entry.used_s).astimezone().isoformat(timespec="seconds"),
        }
        for entry in entries
    ]
    (print_json if as_json else print_rows)(rows)
