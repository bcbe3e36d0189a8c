"""What is recorded of a machine and its software, and what makes two of them one."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ValidationError

IDENTITY = (
    "cpu",
    "architecture",
    "logical_cores",
    "affinity_cores",
    "cpu_quota",
    "virtualised",
    "system",
    "memory_bytes",
)
"""Of `environment["machine"]`, what two runs must share for their times to be compared as one machine's."""


def identity(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a machine the same: not its name, its clock at the moment, or the last digits of its memory."""
    facts = {key: environment["machine"].get(key) for key in IDENTITY}
    facts["memory_bytes"] = round((facts["memory_bytes"] or 0) / 2**30) * 2**30  # the kernel's share of it varies
    facts["system"] = ".".join(str(facts["system"]).split(".")[:2])  # Linux 6.8.0-41-generic and -45 are one
    return facts


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What tells two environments' machines apart, in words; nothing if they are one."""
    theirs, ours = identity(then), identity(now)
    return [f"{key}: {theirs[key]} then, {ours[key]} now" for key in IDENTITY if theirs[key] != ours[key]]


def fingerprint(environment: Mapping[str, Any]) -> str:
    """A digest of a machine's identity."""
    return sha256(json.dumps(identity(environment), sort_keys=True).encode()).hexdigest()[:16]


class _Machine(BaseModel):
    cpu: str
    affinity_cores: int
    memory_bytes: int
    system: str
    physical_cores: int | None = None
    virtualised: bool | None = None


class _State(BaseModel):
    load_average: list[float] | None = None


class _Threads(BaseModel):
    used: list[int]


class _Environment(BaseModel):
    """What reports read of a recorded environment; the rest is for people and may be anything."""

    machine: _Machine
    state: _State = _State()
    software: dict[str, str | None]
    threads: _Threads
    accelerators: dict[str, str] = {}


def fault_in(environment: dict[str, Any]) -> str | None:
    """Why a recorded environment cannot be one that `environment` made; None if it can."""
    try:
        _Environment.model_validate(environment)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


def label(environment: dict[str, Any]) -> str:
    """A machine in a few words: `AMD EPYC, 2 threads, NVIDIA H100`."""
    threads = " or ".join(map(str, environment["threads"]["used"]))
    accelerators = sorted(set(environment.get("accelerators", {}).values()))
    return ", ".join([environment["machine"]["cpu"], f"{threads} threads", *accelerators])
