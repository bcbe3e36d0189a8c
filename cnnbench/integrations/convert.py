"""A run's folder, written in another tool's format."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import cast

from cnnbench.errors import InputError, RunFolderError, unknown
from cnnbench.integrations.exporters.converted import Converted
from cnnbench.records import files
from cnnbench.records.run_folder import Run, read_run

FORMATS = {
    "pytest-benchmark": "pytest_benchmark",
    "github-action": "github_action",
    "bencher": "bencher",
    "pyperf": "pyperf",
    "junit": "junit",
    "csv": "csv",
    "parquet": "parquet",
}
"""The module of each format, in `cnnbench.integrations.exporters`; imported when it is asked for."""


def convert(folder: Path, format_name: str, out: Path | None = None) -> tuple[list[Path], list[str]]:
    """Write the run into `out`, or into its own folder under the format's name.

    A format of one file is written to `out` itself; of several, their endings are put behind its name. Gives the files,
    and what the format could not hold.

    Raises InputError for an unknown format or a file that cannot be written, RunFolderError for a run without records.
    """
    if format_name not in FORMATS:
        raise InputError(f"--to: {unknown('format', format_name, FORMATS)}")
    if out is not None and out.exists() and not out.is_file():
        raise InputError(f"--out: expected the name of a file; got {out}, which is a folder or a device")
    run = read_run(folder)
    if not run.records:
        raise RunFolderError(f"{folder}: expected a run with records; got none; go on with `cnnbench run --resume`")
    module = importlib.import_module(f"cnnbench.integrations.exporters.{FORMATS[format_name]}")
    converted = cast(Callable[[Run], Converted], module.convert)(run)
    named = _names(out or folder / format_name, converted, exact=out is not None)
    try:
        for file, content in named.items():
            files.write(file, content)
    except OSError as error:
        raise InputError(f"--out: {file} cannot be written: {error.strerror}") from None
    return list(named), [*run.unreadable, *converted.lost]


def _names(out: Path, converted: Converted, *, exact: bool) -> dict[Path, bytes]:
    if exact and len(converted.files) == 1:
        return dict.fromkeys([out], *converted.files.values())
    stem = out.with_suffix("") if exact else out
    return {stem.with_name(stem.name + end): content for end, content in converted.files.items()}
