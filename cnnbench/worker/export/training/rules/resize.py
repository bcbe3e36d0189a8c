"""Resizing and padding by what is there: linear along each side, so the gradient is by the transposed matrices."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from cnnbench.worker.export.training.rules.pooling import Matrix, along_sides
from cnnbench.worker.export.training.rules.rule import OpResult, Rule, Shape
from cnnbench.worker.graphs.graph import Graph, Tensor

OTHER = 2
"""Not 1: of images that wide torch 2.14 resizes the height wrongly where it antialiases."""


def _matrix(function: Callable[[torch.Tensor], torch.Tensor], size: int, side: int, sides: int) -> Matrix | None:
    """(new size, size): what torch makes of each unit vector along one side of images whose other sides are OTHER."""
    line, shape = [1] * sides, [OTHER] * sides
    line[side] = shape[side] = size
    made = function(torch.eye(size, dtype=torch.float64).reshape(1, size, *line).expand(1, size, *shape).contiguous())
    lines = made[0].movedim(1 + side, -1).reshape(size, OTHER ** (sides - 1), -1)
    matrix: Matrix = lines[:, 0].T.numpy().astype(np.float32)
    return None if matrix.shape[0] == size and (matrix == np.eye(size)).all() else matrix


def upsample(name: str, *, has_corners: bool = False) -> Rule:
    """The rule of aten's operator `name`.vec, which knows the new size or the factors."""
    operator = getattr(torch.ops.aten, name).default

    def rule(g: Graph, out: Sequence[Shape], x: Tensor, size: Any, *settings: Any) -> OpResult:
        corners = [bool(settings[0])] if has_corners else []
        factors = settings[-1]
        sides = x.ndim - 2
        matrices = []
        for side in range(sides):
            new, scales = [OTHER] * sides, [None] * sides
            new[side] = out[0][2 + side] or 0
            scales[side] = factors[side] if factors else None

            def resized(image: torch.Tensor, new: Any = new, scales: Any = scales) -> torch.Tensor:
                return operator(image, new, *corners, *scales)  # type: ignore[no-any-return]

            matrices.append(_matrix(resized, x.spatial()[side], side, sides))
        return along_sides(g, x, matrices)

    return rule


def pad(name: str) -> Rule:
    """The rule of reflection or replication, whose pads are given from the last side on."""
    operator = getattr(torch.ops.aten, name).default

    def rule(g: Graph, _: Any, x: Tensor, pads: Sequence[int]) -> OpResult:
        sides = x.ndim - 2
        matrices = []
        for side in range(sides):
            place = 2 * (sides - 1 - side)
            own = [0] * (2 * sides)
            own[place : place + 2] = pads[place : place + 2]
            matrices.append(_matrix(partial(operator, padding=own), x.spatial()[side], side, sides))
        return along_sides(g, x, matrices)

    return rule
