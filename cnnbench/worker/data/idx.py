"""Files in MNIST's format (LeCun, "The MNIST database", section "File formats")."""

import gzip
import io
import math
import struct
import zlib
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import InputError
from cnnbench.records import files
from cnnbench.records.dataset import idx_files
from cnnbench.worker.data.parts import Part, Parts

UNSIGNED_BYTES = 8
"""The type of all values, in the third byte of a file; the fourth is the number of dimensions, 4 bytes each."""
BYTES_PER_SIZE = 4
IMAGE_AXES = 3
MAX_BYTES = 2**30
"""Of a file, also of what is compressed in it; EMNIST's largest has 547 MB."""
FASHION_MNIST = "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9"
"""SHA-256 of its test labels."""
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
"""Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST", table 2."""


def read(folder: str) -> Parts:
    """The four files in a folder. Raises InputError for a file that is something else, and parts that do not fit."""
    found = {name: read_idx(str(file)) for name, file in idx_files(Path(folder)).items()}
    train, test = (_part(folder, *pair) for pair in zip(*[iter(found.items())] * 2, strict=True))
    if train.images.shape[1:] != test.images.shape[1:]:
        sizes = ("x".join(map(str, part.images.shape[2:])) for part in (train, test))
        raise InputError(f"{folder}: expected test images of the training images' size; got {' and '.join(sizes)}")
    labels = test.labels.astype(np.uint8).tobytes()
    names = [str(number) for number in range(int(max(train.labels.max(), test.labels.max())) + 1)]
    return Parts(train, test, CLOTHES if sha256(labels).hexdigest() == FASHION_MNIST else names)


def _part(folder: str, images: tuple[str, NDArray[np.uint8]], labels: tuple[str, NDArray[np.uint8]]) -> Part:
    axes = images[1].ndim, labels[1].ndim
    if axes != (IMAGE_AXES, 1):
        raise InputError(
            f"{folder}: expected images of 3 axes and labels of 1 in {images[0]} and {labels[0]}; got {axes}"
        )
    if len(labels[1]) != len(images[1]) or not len(images[1]):
        raise InputError(
            f"{folder}: expected a label for each image, and one at least; got {len(labels[1]):,} in {labels[0]} for "
            f"{len(images[1]):,} in {images[0]}"
        )
    return Part(images[1][:, None], labels[1].astype(np.int64))


def read_idx(file: str) -> NDArray[np.uint8]:
    """The array in a file, compressed by gzip or not. Raises InputError if it is something else."""
    try:
        content = files.read(Path(file), MAX_BYTES)
        if file.endswith(".gz"):
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_BYTES:
        raise InputError(f"{file}: expected at most {MAX_BYTES:,} bytes of values; there are more")
    if len(content) < BYTES_PER_SIZE or content[:3] != bytes([0, 0, UNSIGNED_BYTES]):
        raise InputError(f"{file}: expected a file of unsigned bytes in MNIST's format; it begins otherwise")
    dimensions = content[3]
    start = BYTES_PER_SIZE * (1 + dimensions)
    shape = struct.unpack_from(f">{dimensions}I", content.ljust(start, b"\0"), BYTES_PER_SIZE)
    if len(content) - start != math.prod(shape):
        raise InputError(f"{file}: expected {math.prod(shape):,} bytes of values; got {len(content) - start:,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
