"""Artifacts: what a model becomes on disk, in a folder of the cache that is named by all that it depends on.

weights.safetensors   the state dict
model.onnx            the inference graph, unless the export failed
golden.safetensors    `images` (N, C, H, W) float32 and `reference` (N, classes) float64
artifact.json         ArtifactFacts
step.onnx             the training step, where somebody has asked for it; step-head.onnx one that trains the head alone
step.json             StepFacts
package-*.pt2         a package compiled ahead for one batch, number of threads and processor, where a case runs it
package-*.pt2.json    PackageFacts
model.int8.onnx       the graph in a precision, where a case runs it: model.fp16.onnx, model.int8-<data>.onnx
model.int8.onnx.json  GraphFacts
model.int8-pt2e.pt2   the same as PyTorch quantises it, a program of torch.export; beside it GraphFacts
golden-*.safetensors  the same as golden.safetensors for images of the data that a graph is calibrated with
seal.json             key, and size and digest of each file; written last, so that a folder with it is whole
"""

import json
import os
import stat
from hashlib import file_digest, sha256
from pathlib import Path

from cnnbench.networks.trainable import ALL
from cnnbench.records import cache, dataset, files
from cnnbench.records.bounds import Count, Recorded
from cnnbench.records.record import ArtifactFacts, GraphFacts, PackageFacts, StepFacts
from cnnbench.records.toolchain import Toolchain, engine_versions, instruction_set, own_toolchain, source_digest
from cnnbench.suite.case import NOISE, Case, ModelSpec
from cnnbench.suite.runtimes import runtime_kind

WEIGHTS, GRAPH, GOLDEN, FACTS = "weights.safetensors", "model.onnx", "golden.safetensors", "artifact.json"
KERNELS = "kernels"
"""In the reference of an ONNX file, the weights of its first convolution."""
CONSTANT = "constant."
"""Begins, in the reference, the name of an input that is the same for all images."""
STEP, STEP_FACTS = "step.onnx", "step.json"
PACKAGE, PACKAGE_FACTS = "package-", ".json"
"""Begins a package's name; behind it, the name of its facts."""
PROGRAM = ".pt2"
"""Ends the name of a program of torch.export."""
MAX_NAME_BYTES = 100
"""Of a model or case in the name of a file, of which a file system takes 143 to 255 bytes."""
IMAGES, LABELS, LEARNING_RATE, STEP_COUNT, LOSS = "images", "labels", "learning_rate", "step", "loss"
"""Inputs and the output of a training step's graph, beside parameters, buffers and the optimizer's states."""
INPUT = "input of the model"
"""The role of each input of the model, where there are several; the only one is called IMAGES."""
DROP = "drop"
"""Scales every rate of dropping: 1 as the model says, 0 for none."""
DRAW = "draw"
"""Which random numbers dropout draws: others for each value; the step counts it on."""
NEW = ".new"
"""Behind an input's name, the output that is its value after the step."""
METADATA = "cnnbench.training_step"
"""The property of a step's graph that says, in JSON, what each input and output is."""


class SealedFile(Recorded):
    """A file's content, by size and SHA-256."""

    size: Count
    sha256: str


class Seal(Recorded):
    """What a finished artifact consists of."""

    key: str
    files: dict[str, SealedFile]


def key_of(spec: ModelSpec, run_id: str, toolchain: Toolchain | None = None, weights_of: str | None = None) -> str:
    """A digest of all that the artifact depends on; `weights_of` is the key of the one that its weights come from.

    A user's own code may change in ways that no digest of one file sees, so its artifacts belong to one run.
    """
    toolchain = toolchain or own_toolchain()
    depends = {
        "code": toolchain.code,
        "spec": spec.model_dump(),
        "versions": dict(toolchain.versions),
        "run": run_id if spec.depends_on_code else None,
        "files": source_digest(spec) or None,
        **({"weights": weights_of} if weights_of else {}),
    }
    return sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:20]


def depends_on(case: Case) -> str:
    """A digest of what the case's times depend on: its model's artifact, the libraries and code that run it.

    A user's own model is known by the file that it stands in, data that int8 is calibrated with by their files.
    """
    key = key_of(case.spec, source_digest(case.spec))
    engines = [engine_versions()[name] for name in runtime_kind(case.runtime).libraries if name in engine_versions()]
    data = [source] if (source := dataset.fingerprint(case.calibration)) else []
    return sha256(json.dumps([key, case.model_dump(), *engines, *data], sort_keys=True).encode()).hexdigest()[:16]


def package_name(case: Case, threads: int) -> str:
    """The file of what is compiled ahead for a case: machine code for its device, batch, threads and this processor."""
    made_for = [case.runtime.replace(":", "-"), f"b{case.batch}", f"t{threads}", instruction_set()]
    made_for += [] if case.device == "cpu" else [case.device]
    return f"{PACKAGE}{'-'.join(made_for)}.pt2"


def graph_file(case: Case) -> str:
    """The file of the graph that a case executes, where it executes one; engines make bfloat16 of the exported one."""
    if case.format in ("fp32", "bf16") or not case.has_own_graph:
        return GRAPH
    return graph_facts_file(case).removesuffix(PACKAGE_FACTS)


def graph_facts_file(case: Case) -> str:
    """The file of what is known of a case's own graph."""
    data = "" if case.calibration == NOISE else f"-{sha256(case.calibration.encode()).hexdigest()[:12]}"
    data += f"-draw{case.draw}" if case.draw else ""
    ending = Path(GRAPH).suffix if case.is_exported else PROGRAM
    return f"{Path(GRAPH).stem}.{case.precision}{data}{ending}{PACKAGE_FACTS}"


def read_graph(folder: Path, case: Case) -> GraphFacts | None:
    """What is known of a case's own graph; None if nobody has asked for it yet."""
    try:
        return GraphFacts.model_validate_json((folder / graph_facts_file(case)).read_text())
    except (OSError, ValueError):
        return None


def golden_file(digest: str = "") -> str:
    """The file of images and reference outputs: the artifact's, or that of other images by their digest."""
    return f"{Path(GOLDEN).stem}-{digest}{Path(GOLDEN).suffix}" if digest else GOLDEN


def golden_of(folder: Path, case: Case) -> str:
    """The file of what a case's outputs are compared with: images of the data that it is calibrated with, if any."""
    graph = read_graph(folder, case) if case.has_own_graph else None
    return golden_file(graph.reference_digest if graph else "")


def made_for(case: Case, threads: int) -> str:
    """The name of what is made for a case beside its model's artifact; empty where nothing is."""
    if case.is_compiled_ahead:
        return package_name(case, threads)
    return graph_facts_file(case) if case.has_own_graph else ""


def file_name(name: str) -> str:
    """A model's label or a case's id as a part of a file name: a long one is cut, and told apart by a digest."""
    text = "".join(c if c.isalnum() or c in "._-" else "-" for c in name)
    if len(text.encode()) <= MAX_NAME_BYTES:
        return text
    return f"{text.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}-{sha256(name.encode()).hexdigest()[:12]}"


def folder_of(spec: ModelSpec, key: str) -> Path:
    """The artifact's folder in the cache. Raises InputError where the cache is another user's."""
    return cache.artifacts_folder() / f"{file_name(spec.label)}-{key}"


def seal(folder: Path, key: str) -> None:
    """Declare a folder's files to be the artifact, whole."""
    found = {file.name: sealed(file) for file in sorted(folder.iterdir()) if file.name != cache.SEAL}
    files.write(folder / cache.SEAL, Seal(key=key, files=found).model_dump_json(indent=1))
    cache.share(folder)


def sealed(file: Path) -> SealedFile:
    """What a file's content is known by. Raises OSError."""
    with file.open("rb") as stream:
        return SealedFile(size=file.stat().st_size, sha256=file_digest(stream, "sha256").hexdigest())


def fault_of(folder: Path) -> str | None:
    """What is wrong with what lies in an artifact's place; None if nothing is, or nothing lies there.

    Nothing is believed that could be another's: the folder must be the user's own (or the cache a shared one), its key
    the one that it is looked for by, and each file of the size and digest that it had when it was finished.
    """
    try:
        if not os.path.lexists(folder):
            return None
        if fault := cache.owner_fault(folder):
            return fault
        whole = Seal.model_validate_json(files.read(folder / cache.SEAL))
        if not folder.name.endswith(f"-{whole.key}"):
            return "has another one's content"
        for name, expected in whole.files.items():
            about = (folder / name).lstat()
            if not stat.S_ISREG(about.st_mode) or about.st_size != expected.size or sealed(folder / name) != expected:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, RecursionError):
        return "cannot be read"
    return None


def read_facts(folder: Path) -> ArtifactFacts | None:
    """What is known of an artifact, whose content is not checked; None if it is not there."""
    try:
        return ArtifactFacts.model_validate_json((folder / FACTS).read_text())
    except (OSError, ValueError):
        return None


def step_files(part: str) -> tuple[str, str]:
    """The names of a training step's graph and facts, by the part of the model that it trains."""
    suffix = "" if part == ALL else f"-{file_name(part)}"
    return STEP.replace(".", f"{suffix}."), STEP_FACTS.replace(".", f"{suffix}.")


def ordered_file(step: Path) -> Path:
    """Beside a training step's graph, the file of what ONNX Runtime's CPU provider runs of it."""
    return step.with_suffix(".cpu.onnx")


def read_step(folder: Path, part: str = ALL) -> StepFacts | None:
    """What is known of an artifact's training step of a part; None if nobody has asked for it yet."""
    try:
        return StepFacts.model_validate_json((folder / step_files(part)[1]).read_text())
    except (OSError, ValueError):
        return None


def read_package(file: Path) -> PackageFacts | None:
    """What is known of a package; None if nobody has asked for it yet."""
    try:
        return PackageFacts.model_validate_json(file.with_name(file.name + PACKAGE_FACTS).read_text())
    except (OSError, ValueError):
        return None
