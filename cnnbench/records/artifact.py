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
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType

import platformdirs
from filelock import FileLock

from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.record import ArtifactFacts, StepFacts
from cnnbench.suite.case import Case, ModelSpec

WEIGHTS, GRAPH, GOLDEN, FACTS = "weights.safetensors", "model.onnx", "golden.safetensors", "artifact.json"
STEP, STEP_FACTS = "step.onnx", "step.json"
MAX_NAME_BYTES = 100
"""Of a model or case in the name of a file, of which a file system takes 143 to 255 bytes."""
IMAGES, LABELS, LEARNING_RATE, STEP_COUNT, LOSS = "images", "labels", "learning_rate", "step", "loss"
"""Inputs and the output of a training step's graph, beside parameters, buffers and the optimizer's states."""
DROP = "drop"
"""Scales every rate of dropping: 1 as the model says, 0 for none."""
NEW = ".new"
"""Behind an input's name, the output that is its value after the step."""
LOCKS = ".locks"
"""Beside the artifacts, a lock for each; an empty file."""
BUILDING = ".building-"
"""Begins the name of a folder that is being filled; the builder's process id follows."""

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "fvcore")


def cache_folder() -> Path:
    """$CNNBENCH_CACHE, or the user's cache folder; absolute, for workers may start elsewhere. Raises InputError."""
    try:
        return Path(os.environ.get("CNNBENCH_CACHE") or platformdirs.user_cache_dir("cnnbench")).absolute()
    except RuntimeError:  # a user without a name, as in a container
        raise InputError("expected a folder for the cache; this user has no home: set CNNBENCH_CACHE") from None


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
        origin = _origin(spec.model.partition(":")[0])
        return sha256(files.read(Path(origin))).hexdigest() if origin else ""
    except Exception:  # whatever somebody's hook of the import system raises
        return ""


def _origin(module: str) -> str | None:
    """The file of a module, found as a worker finds it, with the current folder at last; no package is imported."""
    found, places = None, None
    for depth, name in enumerate(accumulate(module.split("."), "{}.{}".format)):
        found = next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, places))), None)
        if found is None and depth == 0:
            found = PathFinder.find_spec(name, [os.getcwd()])
        if found is None:
            return None
        places = found.submodule_search_locations
    return found.origin if found else None


def depends_on(case: Case) -> str:
    """A digest of what the case's times depend on: its model's artifact, the libraries and code that run it.

    A user's own model is known by the file that it stands in.
    """
    key = key_of(case.spec, source_digest(case.spec))
    return sha256(json.dumps([key, case.model_dump()], sort_keys=True).encode()).hexdigest()[:16]


def file_name(name: str) -> str:
    """A model's label or a case's id as a part of a file name: a long one is cut, and told apart by a digest."""
    text = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    if len(text.encode()) <= MAX_NAME_BYTES:
        return text
    return f"{text.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}-{sha256(name.encode()).hexdigest()[:12]}"


def folder_of(spec: ModelSpec, key: str) -> Path:
    """The artifact's folder in the cache. Raises InputError if the cache cannot be written."""
    place, why = cache_folder() / "artifacts", "permission denied"
    try:
        place.mkdir(parents=True, exist_ok=True)
        is_usable = os.access(place, os.W_OK)
    except OSError as error:
        is_usable, why = False, str(error.strerror)
    if not is_usable:
        raise InputError(f"{place}: the cache cannot be written: {why}; set CNNBENCH_CACHE to a folder that can")
    return place / f"{file_name(spec.label)}-{key}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an artifact's folder, so that no other process builds in it; the lock ends with its holder."""
    locks = folder.parent / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{folder.name}.lock"):
        yield


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
