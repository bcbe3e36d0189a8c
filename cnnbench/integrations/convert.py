"""A run's folder, written in another tool's format."""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

from cnnbench.analysis.status import rechecked
from cnnbench.analysis.times import comparable_time
from cnnbench.errors import InputError, RunFolderError, unknown
from cnnbench.integrations import exporters
from cnnbench.integrations.exporters.converted import Converted, rates
from cnnbench.records import files
from cnnbench.records.record import Record
from cnnbench.records.run_folder import Run, read_run

FORMATS = {
    "pytest-benchmark": "pytest_benchmark:convert",
    "github-action": "github_action:convert",
    "bencher": "bencher:convert",
    "pyperf": "pyperf:convert",
    "junit": "junit:convert",
    "csv": "frames:csv",
    "parquet": "frames:parquet",
}
"""The module and function of each format, in `cnnbench.integrations.exporters`; imported on demand."""
COMPARED = ("pytest-benchmark", "github-action", "bencher", "pyperf")
"""Formats of tools that compare times: to them a set without any would look like a set in which nothing is slower."""

WITH_RATES = ("github-action", "bencher")
"""Those of them that take a service's rate too."""


def _has_no_time(record: Record) -> bool:
    return comparable_time(record) is None


def convert(folder: Path, format_name: str, out: Path | None = None) -> tuple[list[Path], list[str]]:
    """Write the run into `out`, or into its own folder under the format's name.

    A format of one file is written to `out` itself; several get their endings appended to its name. Gives the files and
    what the format cannot hold.

    Raises InputError for an unknown format or a file that cannot be written, RunFolderError for a run without records.
    """
    if format_name not in FORMATS:
        raise InputError(f"--to: {unknown('format', format_name, FORMATS)}")
    if out is not None and out.exists() and not out.is_file():
        raise InputError(f"--out: expected the name of a file; got {out}, which is a folder or a device")
    run = rechecked(read_run(folder))
    if not run.records:
        raise RunFolderError(f"{folder}: expected a run with records; got none; continue with `cnnbench run --resume`")
    has_rates = format_name in WITH_RATES and bool(rates(run))
    if format_name in COMPARED and not has_rates and all(map(_has_no_time, run.records.values())):
        raise RunFolderError(f"{folder}: expected a case with a time; got none: no file for {format_name} is written")
    exporter: Callable[[Run], Converted] = resolve_name(f"{exporters.__name__}.{FORMATS[format_name]}")
    converted = exporter(run)
    stem = out.with_suffix("") if out else folder / format_name
    named = {stem.with_name(stem.name + end): content for end, content in converted.files.items()}
    if out and len(named) == 1:
        named = dict.fromkeys([out], *named.values())
    try:
        for file, content in named.items():
            files.write(file, content)
    except OSError as error:
        raise InputError(f"--out: {file} cannot be written: {error.strerror}") from None
    return list(named), [*run.unreadable, *converted.lost]
