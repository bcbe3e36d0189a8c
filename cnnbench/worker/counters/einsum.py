"""MACs of an einsum, from its equation and shapes."""

import math
from collections.abc import Sequence

from cnnbench.errors import ModelError


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """One for each combination of all indices, where two operands are multiplied; none where there is one operand.

    Raises ModelError for more operands, whose order of contraction the equation does not tell.
    """
    if len(shapes) < 2:
        return 0
    if len(shapes) > 2:
        raise ModelError(f"no formula for einsum of {len(shapes)} operands ({equation})")
    sizes: dict[str, int] = {}
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.partition("...")
        batch = len(shape) - len(before) - len(after) if dots else 0
        names = [*before, *(f"...{place}" for place in range(batch, 0, -1)), *after]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(sizes.get(name, 1), size)
    return math.prod(sizes.values())
