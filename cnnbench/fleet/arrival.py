"""A run's folder as it arrives from a node: checked, then written at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from cnnbench.fleet.messages import LINES, WHOLE, FileName, Wrote
from cnnbench.records import files
from cnnbench.records.environment import Environment
from cnnbench.records.input_times import InputTimes
from cnnbench.records.json_object import parse_object, read_each
from cnnbench.records.layer_profile import ModelProfile
from cnnbench.records.lines import SHARED, Shared, parse_record
from cnnbench.records.peaks import PeaksFile
from cnnbench.records.record import Record
from cnnbench.records.run_folder import SUITE, About

MODELS: Mapping[FileName, type[BaseModel]] = {
    "run.json": About,
    "environment.json": Environment,
    "ceilings.json": PeaksFile,
    "input.json": InputTimes,
    "profiles.jsonl": ModelProfile,
}
"""What the files hold that are checked by themselves."""


class Arriving:
    """The folder of one machine's run on the driver's side. Of what is written, names and numbers alone are kept."""

    def __init__(self, folder: Path, suite: str) -> None:
        """Make it, or go on in it; `suite` is the suite's text. Raises OSError."""
        self.folder = folder
        self._shared: set[tuple[str, str]] = set()
        """Field and digest of what records can refer to."""
        self._launches: dict[str, int] = {}
        """By case, how many its last line and those before it have."""
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

        The record has the launches of its own line, and nothing of what it shares with others.
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
        self._shared.update((name, shared.digest) for name in SHARED if getattr(shared, name) is not None)

    def _record(self, content: dict[str, Any]) -> Record:
        id_, earlier = str(content.get("id", "")), content.get("earlier", 0)
        known = self._launches.get(id_, 0)
        if not isinstance(earlier, int) or not 0 <= earlier <= known:
            raise ValueError(f"earlier: expected at most the {known} launches of the case's line before")
        own = {key: value for key, value in content.items() if (key, str(value)) not in self._shared}
        record = parse_record(own | ({"earlier": 0} if earlier else {}), {}, {})
        self._launches[id_] = earlier + len(record.launches)
        return record


def known(folder: Path) -> dict[FileName, str]:
    """The text of each file that has arrived in a folder."""
    found: dict[FileName, str] = {}
    for name in (*WHOLE, *LINES):
        try:
            found[name] = files.read(folder / name).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            continue
    return found
