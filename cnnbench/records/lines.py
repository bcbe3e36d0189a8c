"""A record as a line of a run's file, and what many records share as lines of a file beside it.

records.jsonl   {"schema_version": 5, "id": ..., "case": ..., "artifact": "7f3a...", "earlier": 1, "launches": [...]}
shared.jsonl    {"digest": "7f3a...", "artifact": {...}}

Counts, artifact, training step and environment are named by the digests of their content. A line of a case that was
measured before holds its new launches alone: `earlier` says how many the case's line before has.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from pydantic import BaseModel

from cnnbench.records.environment import Environment
from cnnbench.records.json_object import parse_object
from cnnbench.records.record import SCHEMA_VERSION, ArtifactFacts, CountsSummary, Launch, Record, StepFacts
from cnnbench.records.upgrade import OLDER, upgraded
from cnnbench.suite.case import Frozen

Value = CountsSummary | ArtifactFacts | StepFacts | Environment


class Shared(Frozen):
    """One value that records share, under its digest."""

    digest: str
    counts: CountsSummary | None = None
    artifact: ArtifactFacts | None = None
    step: StepFacts | None = None
    environment: Environment | None = None

    @property
    def value(self) -> Value | None:
        """The one that it is."""
        return self.counts or self.artifact or self.step or self.environment


SHARED = tuple(name for name in Shared.model_fields if name != "digest")
"""The fields of a record that are named by digests."""


def digest_of(value: BaseModel) -> str:
    """Names a value by its content."""
    return sha256(value.model_dump_json().encode()).hexdigest()[:16]


def shared_values(record: Record) -> dict[str, Shared]:
    """What a record shares with others, by digest."""
    values = {name: value for name in SHARED if (value := getattr(record, name)) is not None}
    return {(digest := digest_of(value)): Shared(digest=digest, **{name: value}) for name, value in values.items()}


def record_line(record: Record, earlier: int = 0) -> str:
    """A record in one line, without its launches that an earlier line has."""
    launches = launches_of(record)
    names = {name: digest_of(value) for name in SHARED if (value := getattr(record, name)) is not None}
    content = {
        "schema_version": SCHEMA_VERSION,
        "id": record.id,
        **record.model_dump(mode="json", exclude={*SHARED, "measurement"}),
        **names,
        "earlier": earlier,
        "launches": [launch.model_dump(mode="json", exclude_defaults=True) for launch in launches[earlier:]],
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse_record(line: bytes, shared: Mapping[str, Shared], before: Mapping[str, Record]) -> Record:
    """A record from its line; `before` are those of the lines above, by id. Raises ValueError with one clear reason."""
    content = parse_object(line)
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"schema {version} is newer than this cnnbench's {SCHEMA_VERSION}; upgrade cnnbench")
    if version in OLDER:
        return _checked(Record.model_validate(upgraded(content)))
    if version != SCHEMA_VERSION:
        raise ValueError(f"schema_version: expected a number up to {SCHEMA_VERSION}; got {str(version)[:20]!r}")
    del content["schema_version"]
    for name in SHARED:
        if content.get(name) is not None:
            content[name] = _shared_value(shared, name, content[name])
    launches = _launches(content, before.get(str(content.pop("id", ""))))
    return _checked(Record.model_validate({**content, "measurement": {"launches": launches} if launches else None}))


def _checked(record: Record) -> Record:
    """The record itself. Raises ValueError if it has times of other phases than its case."""
    phases = {tuple(block.seconds) for launch in launches_of(record) for block in launch.blocks}
    if phases - {record.case.phases}:
        raise ValueError(f"blocks: expected times of {', '.join(record.case.phases)}")
    return record


def launches_of(record: Record | None) -> Sequence[Launch]:
    """Those that it has; none if it was not measured."""
    return record.measurement.launches if record and record.measurement else []


def _shared_value(shared: Mapping[str, Shared], name: str, digest: object) -> Value:
    value: Value | None = getattr(shared.get(str(digest)), name, None)
    if value is None:
        raise ValueError(f"{name}: {str(digest)[:20]!r} is not in the file of what records share")
    return value


def _launches(content: dict[str, Any], before: Record | None) -> Sequence[Launch | dict[str, Any]]:
    earlier, launches = content.pop("earlier", 0), content.pop("launches", [])
    known = launches_of(before)
    if not isinstance(earlier, int) or not isinstance(launches, list) or not 0 <= earlier <= len(known):
        raise ValueError(f"earlier: expected at most the {len(known)} launches of the case's line before")
    return [*known[:earlier], *launches]
