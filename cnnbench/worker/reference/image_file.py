"""A user's own image or signal as a model's input. No torch."""

from pathlib import Path

import numpy as np

from cnnbench.errors import ModelError
from cnnbench.records.task_messages import OwnInput
from cnnbench.worker.reference.parity import Array, Tensors, several, tiled

MODES = {1: "L", 3: "RGB"}
"""By number of channels, what Pillow calls grey and colour."""
IMAGE_AXES = 3


def with_image(images: Tensors, image: OwnInput | None) -> Tensors:
    """A batch (N, ...) whose every image is the file's, scaled to mean 0 and deviation 1 as reference images are.

    Pictures are resized; a whole batch is taken as it is. Raises ModelError for what cannot be read, or does not fit
    the model's one input.
    """
    if image is None:
        return images
    file = image.file
    if len(several(images)) > 1:
        raise ModelError(f"{file}: expected a model with one input; this one takes {len(several(images))}")
    (batch,) = several(images)
    if image.is_batch:
        return tiled(np.load(file).astype(batch.dtype), len(batch))
    values = _read(file, batch.shape[1:])
    scaled = (values - values.mean()) / (values.std() or 1.0)
    return np.broadcast_to(scaled.astype(batch.dtype), batch.shape).copy()


def _read(file: str, shape: tuple[int, ...]) -> Array:
    """The file's numbers in the shape of one input."""
    expected = "x".join(map(str, shape))
    numbers = Path(file).suffix in (".npy", ".csv", ".txt")
    if not numbers and (len(shape) != IMAGE_AXES or shape[0] not in MODES):
        raise ModelError(f"{file}: expected a file of numbers (.npy, .csv, .txt) for an input of {expected}")
    try:
        if numbers:
            is_text = not file.endswith(".npy")
            found = np.loadtxt(file, delimiter="," if file.endswith(".csv") else None) if is_text else np.load(file)
            values = np.asarray(found, np.float64)
        else:
            values = _picture(file, shape)
    except Exception as error:  # whatever a decoder raises
        words = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{file}: expected a picture that Pillow reads, or numbers (.npy, .csv, .txt); got {words}"
        ) from None
    if values.size != np.prod(shape) or not np.isfinite(values).all():
        got = "x".join(map(str, values.shape)) if np.isfinite(values).all() else "others"
        raise ModelError(f"{file}: expected {expected} finite numbers, as the model's input has; got {got}")
    return values.reshape(shape)


def _picture(file: str, shape: tuple[int, ...]) -> Array:
    from PIL import Image

    channels, height, width = shape
    with Image.open(file) as picture:
        is_deep = picture.mode.startswith(("I", "F"))  # of more than 8 bits, which "L" would cut off
        mode = "F" if is_deep else MODES[channels]
        resized = picture.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized, np.float64).reshape(height, width, -1)
    return np.broadcast_to(pixels, (height, width, channels)).transpose(2, 0, 1)
