"""Where artifacts lie: what a model becomes on disk, in a cache, named by all that it depends on.

weights.safetensors   the state dict
model.onnx            the inference graph, unless the export failed
golden.safetensors    `images` (N, C, H, W) float32 and `reference` (N, classes) float64
artifact.json         ArtifactFacts; written last, so that a folder with it is complete
step.onnx             the training step, where somebody has asked for it
step.json             StepFacts; written after it
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import platformdirs

from cnnbench.records.record import ArtifactFacts, StepFacts
from cnnbench.suite.case import Case, ModelSpec

WEIGHTS, GRAPH, GOLDEN, FACTS = "weights.safetensors", "model.onnx", "golden.safetensors", "artifact.json"
STEP, STEP_FACTS = "step.onnx", "step.json"
BUILDING = ".building-"
"""Begins the name of a folder that is being filled; the builder's process id follows."""

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "fvcore")


def cache_folder() -> Path:
    """$CNNBENCH_CACHE, or the user's cache folder."""
    return Path(os.environ.get("CNNBENCH_CACHE") or platformdirs.user_cache_dir("cnnbench"))


@cache
def library_versions() -> Mapping[str, str]:
    """The installed versions of what builds and runs models, without importing any of it."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return MappingProxyType(found)


@dataclass(frozen=True)
class Toolchain:
    """What builds artifacts: the code, as a digest, and the libraries' versions."""

    code: str
    versions: Mapping[str, str]


@cache
def own_toolchain() -> Toolchain:
    """That of this process."""
    return Toolchain(_code_digest(), library_versions())


def _code_digest() -> str:
    """A digest of the code that builds and counts models, so that a change of it is never hidden by the cache."""
    package = Path(__file__).parent.parent
    digest = sha256()
    for file in sorted([*package.glob("networks/**/*.py"), *package.glob("worker/**/*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def key_of(spec: ModelSpec, run_id: str, toolchain: Toolchain | None = None, weights_of: str | None = None) -> str:
    """A digest of all that the artifact depends on; `weights_of` is the key of the one that its weights come from.

    A user's own code may change in ways that no digest of one file sees, so its artifacts belong to one run.
    """
    toolchain = toolchain or own_toolchain()
    depends = {
        "code": toolchain.code,
        "spec": spec.model_dump(),
        "versions": dict(toolchain.versions),
        "run": run_id if spec.is_users_own else None,
        **({"weights": weights_of} if weights_of else {}),
    }
    return sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:20]


def source_digest(spec: ModelSpec) -> str:
    """A digest of the file that a user's own model stands in, without importing it; empty for any other."""
    if not spec.is_users_own:
        return ""
    try:
        found = find_spec(spec.model.partition(":")[0])
        return sha256(Path(found.origin).read_bytes()).hexdigest() if found and found.origin else ""
    except (ImportError, OSError, ValueError):
        return ""


def depends_on(case: Case) -> str:
    """A digest of what the case's times depend on: its model's artifact, the libraries and code that run it.

    A user's own model is known by the file that it stands in.
    """
    key = key_of(case.spec, source_digest(case.spec))
    return sha256(json.dumps([key, case.model_dump()], sort_keys=True).encode()).hexdigest()[:16]


def file_name(name: str) -> str:
    """A model's label or a case's id as a part of a file name."""
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def folder_of(spec: ModelSpec, key: str) -> Path:
    """The artifact's folder in the cache."""
    return cache_folder() / "artifacts" / f"{file_name(spec.label)}-{key}"


def remove(spec: ModelSpec, key: str) -> None:
    """Delete an artifact."""
    shutil.rmtree(folder_of(spec, key), ignore_errors=True)


def read_facts(folder: Path) -> ArtifactFacts | None:
    """What is known of a finished artifact; None if it is not there, or not finished."""
    try:
        return ArtifactFacts.model_validate_json((folder / FACTS).read_text())
    except (OSError, ValueError):
        return None


def read_step(folder: Path) -> StepFacts | None:
    """What is known of a finished artifact's training step; None if nobody has asked for it yet."""
    try:
        return StepFacts.model_validate_json((folder / STEP_FACTS).read_text())
    except (OSError, ValueError):
        return None
