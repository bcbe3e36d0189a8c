"""The images that a graph is calibrated with, and those that its outputs are compared on.

A network that is calibrated with data is out of its ranges on noise: quantisation cuts most of what its layers put out,
and outputs there do not tell a right engine from a wrong one. So both kinds of images are of the same data.
"""

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file

from cnnbench.errors import InputError
from cnnbench.records import dataset, files
from cnnbench.records.artifact import WEIGHTS, golden_file
from cnnbench.records.record import ArtifactFacts
from cnnbench.suite.case import NOISE, Case, ModelSpec
from cnnbench.worker.data.read import read
from cnnbench.worker.reference.parity import Array, Golden, Tensors, numbered, open_artifact, several

CALIBRATION_IMAGES = 200
NOISE_SEED = 1000
"""Added to the model's seed: other images than those that outputs are compared on."""


class Images(NamedTuple):
    """Of a case that is quantised."""

    calibration: tuple[Array, ...]
    """(N, ...) for each input."""
    golden: Golden
    reference_digest: str
    """Of the reference's images, by which its file is named; empty where they are the artifact's."""


def images_for(case: Case, facts: ArtifactFacts, folder: Path, golden: Golden) -> Images:
    """Random images beside the artifact's reference, or images of data, as many of which are held out as that has.

    The reference of the latter is written beside the artifact. Raises InputError for data that do not fit the model.
    """
    if case.calibration == NOISE:
        return Images(_noise(case.spec, golden), golden, "")
    if facts.inputs:
        names = ", ".join(facts.inputs)
        raise InputError(f"calibration {case.calibration}: expected a model of one input; it takes {names}")
    data = read(dataset.find(case.calibration), facts.input_shape, facts.classes)
    calibrating, held_out = drawn(case, len(data.train.labels), len(several(golden.images)[0]), facts.batch or 1)
    images = data.prepare(data.train.images[held_out])
    digest = digest_of(images)
    file = folder / golden_file(digest)
    if not file.exists():
        outputs = several(reference_of(case.spec, facts, folder, images))
        with files.replacing(file) as temporary:
            save_file({"images": images, **numbered("reference", outputs)}, temporary)
    return Images((data.prepare(data.train.images[calibrating]),), open_artifact(folder, file.name)[1], digest)


def digest_of(*images: Array) -> str:
    """Of their values."""
    return sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in images)).hexdigest()[:16]


def _noise(spec: ModelSpec, golden: Golden) -> tuple[Array, ...]:
    from cnnbench.worker.reference.inputs import images

    return tuple(
        images(CALIBRATION_IMAGES, x.shape[1:], spec.seed + NOISE_SEED + place).numpy()
        if x.dtype.kind == "f"
        else np.resize(x, (CALIBRATION_IMAGES, *x.shape[1:]))
        for place, x in enumerate(several(golden.images))
    )


def drawn(case: Case, known: int, count: int, at_least: int = 1) -> tuple[Array, Array]:
    """Of so many training images, the places of those that calibrate, by the case's draw, and of `count` for no draw.

    Raises InputError where fewer than `at_least` are left to calibrate with.
    """
    if known < count + at_least:
        raise InputError(
            f"calibration {case.calibration}: expected at least {count + at_least} training images, {count} of which "
            f"are held out to compare outputs on; got {known}"
        )
    held_out = np.random.default_rng(case.spec.seed).permutation(known)[-count:]
    order = np.random.default_rng([case.spec.seed, case.draw] if case.draw else case.spec.seed).permutation(known)
    return order[~np.isin(order, held_out)][:CALIBRATION_IMAGES], held_out


def reference_of(spec: ModelSpec, facts: ArtifactFacts, folder: Path, images: Array) -> Tensors:
    """The outputs (N, ...) of an artifact's model of one input for images (N, ...), as exact as its own reference."""
    if spec.is_onnx_file:
        from cnnbench.worker.onnx_artifact import reference_of_file

        return reference_of_file(facts, folder, images)
    import torch
    from safetensors.torch import load_file

    from cnnbench.worker.models import rebuild
    from cnnbench.worker.reference.inputs import reference

    module = rebuild(spec, facts)
    module.load_state_dict(load_file(folder / WEIGHTS))
    return tuple(output.numpy() for output in reference(module, [torch.from_numpy(images)]))
