"""One measurement in a history: a gate's ratio, a run's time, exact figures, or a time that another tool measured.

    {"id": "5f0c...", "kind": "gate", "machine": "9a41...", "commit": "3a6e...", "base": "5e4f...", "log_ratio": ...}

An entry holds all that it needs, and its id is a digest of its content: the order of lines in a file means nothing, and
a line that stands twice is one entry. Dates are ISO 8601 with their offset.
"""

import json
import math
import re
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from cnnbench.records.bounds import Count, Recorded

Kind = Literal["gate", "run", "exact", "import"]
"""
gate    log of head's time over base's, from pairs of one job
run     a time of one run, in seconds: it wanders with the machine's state
exact   figures of a model without noise: parameters, MACs, nodes of graphs, memory by formula
import  a time of one run that another tool measured
"""
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
Versions = Annotated[dict[str, str], Field(max_length=100)]
Log = Annotated[float, Field(gt=-50, lt=50)]
ANY_MACHINE = "any"
"""The machine of what is equal on all: exact figures."""
IS_MACHINE = re.compile(r"[0-9a-f]{16}|any")


class Entry(Recorded):
    """One measurement of one case at one commit."""

    stated_id: Annotated[str, Field(alias="id", max_length=100, exclude=True)] = ""
    """As it stands in the file; `id` if nobody has changed the line."""

    kind: Kind
    machine: Annotated[str, Field(pattern=IS_MACHINE.pattern, max_length=16)]
    """Its fingerprint, which is the file's name."""
    machine_name: Annotated[str, Field(max_length=300)] = ""
    case: Annotated[str, Field(max_length=1000)]
    """Its id; of exact figures, the model's name."""
    measured: AwareDatetime
    commit: Commit
    """That was measured; of a gate, head's."""
    committed: AwareDatetime
    versions: Versions | None = None
    """Of Python and the libraries."""
    base: Commit | None = None
    """Of a gate."""
    base_committed: AwareDatetime | None = None
    base_versions: Versions | None = None
    """Where they differ from head's."""
    log_ratio: Log | None = None
    """Natural logarithm of head's time over base's: the mean over pairs."""
    pair_sd: Annotated[float, Field(ge=0, lt=50)] | None = None
    """Standard deviation of the logarithm of one pair's ratio."""
    pairs: Count = 0
    verdict: Annotated[str, Field(max_length=20)] = ""
    seconds: Annotated[float, Field(ge=1e-12, lt=1e9)] | None = None
    """Of one call, in a run."""
    figures: Annotated[dict[str, Count], Field(max_length=1000)] | None = None
    tool: Annotated[str, Field(max_length=50)] = ""
    """That measured it, if another."""

    @property
    def content(self) -> str:
        """What its id is a digest of: its values as JSON, without those that it does not have."""
        return json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True, separators=(",", ":"))

    @property
    def id(self) -> str:
        """A digest of its content."""
        return sha256(self.content.encode()).hexdigest()[:16]

    @property
    def line(self) -> str:
        """As it is kept."""
        return f'{{"id":"{self.id}",{self.content[1:]}'

    @property
    def is_usable_ratio(self) -> bool:
        """Whether it is a gate's ratio with an error, of two commits or two environments."""
        return self.log_ratio is not None and self.pair_sd is not None and self.pairs > 1

    @property
    def order(self) -> tuple[datetime, str]:
        """Sorts by the commit's date."""
        return self.committed, self.commit

    @property
    def summary(self) -> str:
        """What it says, in a few words."""
        if self.log_ratio is not None:
            return f"{math.exp(self.log_ratio):.4f} of base, {self.pairs} pairs, {self.verdict}"
        return f"{1e3 * self.seconds:.4g} ms" if self.seconds is not None else f"{len(self.figures or {})} figures"
