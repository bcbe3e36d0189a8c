"""A run's folder as it arrives from a node: checked, then written at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cnnbench.fleet.messages import LINES, WHOLE, FileName, Wrote
from cnnbench.records import files
from cnnbench.records.environment import Environment
from cnnbench.records.json_object import parse_object, read_each
from cnnbench.records.layer_profile import ModelProfile
from cnnbench.records.lines import Shared, parse_record
from cnnbench.records.peaks import PeaksFile
from cnnbench.records.record import Record
from cnnbench.records.run_folder import SUITE, About

MODELS: Mapping[FileName, type[BaseModel]] = {
    "run.json": About,
    "environment.json": Environment,
    "ceilings.json": PeaksFile,
    "profiles.jsonl": ModelProfile,
}
"""What the files hold that are checked by themselves."""


class Arriving:
    """The folder of one machine's run on the driver's side."""

    def __init__(self, folder: Path, suite: str) -> None:
        """Make it, or go on in it; `suite` is the suite's text. Raises OSError."""
        self.folder = folder
        self._shared: dict[str, Shared] = {}
        self._records: dict[str, Record] = {}
        self._lines = files.Appender()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / SUITE).exists():
            files.write(folder / SUITE, suite)

        def remember(content: dict[str, Any]) -> None:
            self._record(content)

        read_each(folder / "shared.jsonl", self._share)
        read_each(folder / "records.jsonl", remember)

    def take(self, wrote: Wrote) -> Record | None:
        """Check what a node wrote and write it down; gives the record if it is one.

        Raises ValueError for what is no such file, or no such line; what a full disk refuses waits for the next line.
        """
        content = parse_object(wrote.text.encode())
        if wrote.file in WHOLE:
            self._check(wrote.file, content)
            files.write(self.folder / wrote.file, wrote.text)
            return None
        if "\n" in wrote.text:
            raise ValueError("expected one line")
        record = self._check(wrote.file, content)
        self._lines.append(self.folder / wrote.file, wrote.text)
        return record

    def flush(self) -> str:
        """Write what waits; gives which file could not be written and why, if so."""
        self._lines.flush()
        return self._lines.fault

    def _check(self, name: FileName, content: dict[str, Any]) -> Record | None:
        match name:
            case "records.jsonl":
                return self._record(content)
            case "shared.jsonl":
                self._share(content)
            case _:
                MODELS[name].model_validate(content)
        return None

    def _share(self, content: dict[str, Any]) -> None:
        shared = Shared.model_validate(content)
        self._shared[shared.digest] = shared

    def _record(self, content: dict[str, Any]) -> Record:
        record = parse_record(content, self._shared, self._records)
        self._records[record.id] = record
        return record


def known(folder: Path) -> dict[FileName, str]:
    """The text of each file that has arrived in a folder."""
    found: dict[FileName, str] = {}
    for name in (*WHOLE, *LINES):
        try:
            found[name] = files.read(folder / name).decode()
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found
