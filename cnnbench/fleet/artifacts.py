"""Artifacts that are built once and travel: the driver offers what its cache has, a node takes what its own lacks.

An artifact's key names all that it depends on, and its seal the digest of each file. The seals come with the job; a
node asks for the files by their digests, and checks each as it arrives. What is damaged is not used: the command builds
it, as it builds all that nobody offers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from cnnbench.fleet.messages import Offer
from cnnbench.records import artifact, cache, files
from cnnbench.records.toolchain import own_toolchain
from cnnbench.runner import plan
from cnnbench.runner.artifacts import Artifacts
from cnnbench.suite.case import Case

BYTES_PER_S = 100e6
"""That the driver is taken to send, to all nodes together: nearly what a link of 1 Gbit/s gives."""

Build = Literal["cheapest", "once", "on-node"]
"""
cheapest   what the driver's cache has is offered where sending it to all nodes takes less time than building it did
once       the driver first builds what its cache lacks, and offers all
on-node    nothing is offered
"""


@dataclass(frozen=True)
class Offered:
    """What the driver offers."""

    offers: tuple[Offer, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    """By SHA-256."""


def toolchain_digest() -> str:
    """Of the code and the libraries that build artifacts: on a node with others, keys are others."""
    return sha256(repr((own_toolchain().code, sorted(own_toolchain().versions.items()))).encode()).hexdigest()[:16]


def offered(cases: Sequence[Case], nodes: int, how: Build) -> Offered:
    """What is offered to so many nodes; what cannot be built is not. Raises InputError where the cache has no place.

    A user's own model, whose artifacts belong to one run, is built by each node.
    """
    if how == "on-node":
        return Offered()
    models = {spec: steps for spec, steps in plan.models_of([cases]).items() if not spec.depends_on_code}
    with Artifacts() as artifacts:
        graphs = [case for case in cases if case.has_own_graph and not case.is_compiled_ahead]
        wanted = [artifacts.wanted(spec, steps, plan.compiled_ahead([graphs], spec)) for spec, steps in models.items()]
        if how == "once":
            artifacts.build(wanted)
        offers, found = [], {}
        for each in wanted:
            facts = artifacts.find(each).facts
            if facts is None:  # it is not there, or damaged
                continue
            text = files.read(each.folder / cache.SEAL).decode()
            sealed = artifact.Seal.model_validate_json(text).files
            send_s = nodes * sum(file.size for file in sealed.values()) / BYTES_PER_S
            if how == "once" or send_s < sum(facts.seconds.values()):
                offers.append(Offer(entry=each.folder.name, seal=text))
                found.update({file.sha256: each.folder / name for name, file in sealed.items()})
    return Offered(tuple(offers), found)


def take(offers: Iterable[Offer], ask: Callable[[str], Iterator[bytes]]) -> list[str]:
    """Fill the cache with what it lacks of the offers; `ask` gives a file's content by its SHA-256.

    Gives what was wrong with those that are not used, a line each. Raises OSError, InputError.
    """
    faults = []
    for offer in offers:
        folder = cache.artifacts_folder() / offer.entry
        if _is_whole(folder):
            continue
        cache.prepare()
        try:
            with cache.locked(folder), cache.filling(folder) as building:
                if _is_whole(folder):  # it has come with another node that has the same cache
                    cache.remove(building)
                    continue
                for name, expected in artifact.Seal.model_validate_json(offer.seal).files.items():
                    receive(building / Path(name).name, expected, ask(expected.sha256))
                files.write(building / cache.SEAL, offer.seal)
        except ValueError as error:
            faults.append(f"{offer.entry}: {error}, so it is built here")
    return faults


def _is_whole(folder: Path) -> bool:
    return folder.is_dir() and artifact.fault_of(folder) is None


def receive(place: Path, expected: artifact.SealedFile, chunks: Iterable[bytes]) -> None:
    """Write a file as it arrives. Raises ValueError if it is another than expected."""
    digest, size = sha256(), 0
    with place.open("wb") as file:
        for chunk in chunks:
            digest.update(chunk)
            size += file.write(chunk)
    if artifact.SealedFile(size=size, sha256=digest.hexdigest()) != expected:
        raise ValueError(f"{place.name} arrived damaged")
