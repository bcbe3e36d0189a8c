"""A record as a line of a run's file, and what many records share as lines of a file beside it.

records.jsonl   {"schema_version": 10, "id": ..., "case": ..., "artifact": "7f3a...", "earlier": 1, "launches": [...]}
shared.jsonl    {"digest": "7f3a...", "artifact": {...}}

Counts, artifact, training step and environment are named by the digests of their content. A line of a case that was
measured before holds its new launches alone: `earlier` says how many the case's line before has.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from pydantic import BaseModel

from cnnbench.records.environment import Environment
from cnnbench.records.record import SAME_SHAPE, SCHEMA_VERSION, ArtifactFacts, CountsSummary, Record, StepFacts
from cnnbench.records.upgrade import OLDER, upgraded
from cnnbench.suite.case import Frozen


class Shared(Frozen):
    """One value that records share, under its digest."""

    digest: str
    counts: CountsSummary | None = None
    artifact: ArtifactFacts | None = None
    step: StepFacts | None = None
    environment: Environment | None = None


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
    names = {name: digest_of(value) for name in SHARED if (value := getattr(record, name)) is not None}
    content = {
        "schema_version": SCHEMA_VERSION,
        "id": record.id,
        **record.model_dump(mode="json", exclude={*SHARED, "measurement"}),
        **names,
        "earlier": earlier,
        "launches": [launch.model_dump(mode="json", exclude_defaults=True) for launch in record.launches[earlier:]],
    }
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def parse_record(content: dict[str, Any], shared: Mapping[str, Shared], before: Mapping[str, Record]) -> Record:
    """A record from a line's object; `before` are those of the lines above, by id. Raises ValueError."""
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"schema {version} is newer than this cnnbench's {SCHEMA_VERSION}; upgrade cnnbench")
    if version in OLDER:
        return _checked(Record.model_validate(upgraded(content)))
    if version not in SAME_SHAPE:
        raise ValueError(f"schema_version: expected a number up to {SCHEMA_VERSION}; got {str(version)[:20]!r}")
    del content["schema_version"]
    for name in SHARED:
        if (digest := content.get(name)) is not None:
            content[name] = getattr(shared.get(str(digest)), name, None)
            if content[name] is None:
                raise ValueError(f"{name}: {str(digest)[:20]!r} is not in the file of what records share")
    earlier, launches = content.pop("earlier", 0), content.pop("launches", [])
    last = before.get(str(content.pop("id", "")))
    known = last.launches if last else []
    if not isinstance(earlier, int) or not isinstance(launches, list) or not 0 <= earlier <= len(known):
        raise ValueError(f"earlier: expected at most the {len(known)} launches of the case's line before")
    launches = [*known[:earlier], *launches]
    record = Record.model_validate({**content, "measurement": {"launches": launches} if launches else None})
    return _checked(record, earlier if last and last.case.phases == record.case.phases else 0)


def _checked(record: Record, checked: int = 0) -> Record:
    """The record, so many of whose launches were checked. Raises ValueError for times of another case's phases."""
    if any(tuple(b.seconds) != record.case.phases for launch in record.launches[checked:] for b in launch.blocks):
        raise ValueError(f"blocks: expected times of {', '.join(record.case.phases)}")
    return record
