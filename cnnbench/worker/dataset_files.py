"""Images and labels from files in MNIST's format (LeCun, "The MNIST database", section "File formats")."""

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnnbench.errors import InputError
from cnnbench.records import files

UNSIGNED_BYTES = 8
"""The type of all values, in the third byte of a file; the fourth is the number of dimensions, 4 bytes each."""
BYTES_PER_SIZE = 4
MAX_BYTES = 2**30
"""Of a file, also of what is compressed in it; EMNIST's largest has 547 MB."""


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


def prepared(raw: NDArray[np.uint8], mean: float, deviation: float, image: tuple[int, ...]) -> NDArray[np.float32]:
    """(N, H, W) bytes as (N, C, H', W') float32: normalised, in the middle of zeros, the same in each channel.

    Raises InputError if the model's images (C, H', W') are smaller.
    """
    channels, *size = image
    if len(size) != 2 or any(side < own for side, own in zip(size, raw.shape[1:], strict=True)):
        shape = "x".join(map(str, raw.shape[1:]))
        raise InputError(f"expected a model for images of at least {shape}; its images are {'x'.join(map(str, image))}")
    margins = [
        ((side - own) // 2, side - own - (side - own) // 2) for side, own in zip(size, raw.shape[1:], strict=True)
    ]
    normal = (raw.astype(np.float32) - np.float32(mean)) / np.float32(deviation)
    padded = np.pad(normal, [(0, 0), *margins])
    return np.ascontiguousarray(np.repeat(padded[:, None], channels, axis=1))
