"""What is recorded of a machine and its software, and what makes two of them one."""

import json
from hashlib import sha256
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cnnbench.records.bounds import Count, Figure, PositiveCount


class _Part(BaseModel):
    """A part of an environment; keys that another version recorded are left out."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False, str_max_length=1000)


class Machine(_Part):
    """The hardware, and what a process may use of it."""

    cpu: str
    architecture: str | None = None
    logical_cores: PositiveCount | None = None
    physical_cores: PositiveCount | None = None
    affinity_cores: PositiveCount
    """Logical cores in the process's affinity mask."""
    cpu_quota: Figure | None = None
    """Cores' worth of time that the container may use; None if unlimited."""
    memory_bytes: PositiveCount
    swap_bytes: Count | None = None
    system: str
    virtualised: bool | None = None


class State(_Part):
    """What the machine was doing as the run began."""

    time: str | None = None
    load_average: tuple[Figure, Figure, Figure] | None = None
    """Over one, five and fifteen minutes."""
    memory_available_bytes: Count | None = None
    governor: str | None = None
    """Of the CPU's frequency."""


def _as_many(used: object) -> object:
    """In the first version of a record, the numbers of threads that are used were one."""
    return (used,) if isinstance(used, int) else used


class Threads(_Part):
    """How many threads, and the variables that OpenMP's threads are told by."""

    usable: PositiveCount | None = None
    """What a case uses that asks for no number."""
    used: Annotated[tuple[PositiveCount, ...], Field(max_length=100), BeforeValidator(_as_many)]
    """By the cases of the run."""
    OMP_NUM_THREADS: str | None = None
    MKL_NUM_THREADS: str | None = None
    KMP_AFFINITY: str | None = None
    OMP_WAIT_POLICY: str | None = None


class Environment(_Part):
    """A machine and its software as a run began."""

    machine: Machine
    state: State = State()
    software: dict[str, str | None]
    """Versions by the name of the library, with `git_commit` of the suite's repository."""
    threads: Threads
    accelerators: dict[str, str] = {}
    """Names by device, of those that were tried and work."""

    @property
    def label(self) -> str:
        """The machine in a few words: `AMD EPYC, 2 threads, NVIDIA H100`."""
        threads = " or ".join(map(str, self.threads.used))
        return ", ".join([self.machine.cpu, f"{threads} threads", *sorted(set(self.accelerators.values()))])

    @property
    def identity(self) -> dict[str, Any]:
        """What two runs must share for their times to be compared as one machine's."""
        facts = self.machine.model_dump(exclude={"physical_cores", "swap_bytes"})
        facts["memory_bytes"] = round(facts["memory_bytes"] / 2**30) * 2**30  # the kernel's share of it varies
        facts["system"] = ".".join(facts["system"].split(".")[:2])  # Linux 6.8.0-41-generic and -45 are one
        return facts

    @property
    def fingerprint(self) -> str:
        """A digest of the machine's identity."""
        return sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]


def differences(then: Environment, now: Environment) -> list[str]:
    """What tells two environments' machines apart, in words; nothing if they are one."""
    theirs, ours = then.identity, now.identity
    return [f"{key}: {theirs[key]} then, {ours[key]} now" for key in ours if theirs[key] != ours[key]]
