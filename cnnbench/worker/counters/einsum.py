"""MACs of an einsum, from its equation and shapes."""

import math
from collections.abc import Sequence

from cnnbench.errors import ModelError


def einsum_macs(equation: str, shapes: Sequence[Sequence[int]]) -> int:
    """One for each combination of the indices of the output and of those that two operands are summed over together.

    None where there is one operand, or no such index: that is a product of single values. An index of one operand alone
    that is not in the output is summed over before, which multiplies nothing. Raises ModelError for more operands,
    whose order of contraction the equation does not tell.
    """
    if len(shapes) < 2:
        return 0
    if len(shapes) > 2:
        raise ModelError(f"no formula for einsum of {len(shapes)} operands ({equation})")
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    sizes: list[dict[str, int]] = []
    for term, shape in zip(inputs.split(","), shapes, strict=True):
        before, dots, after = term.partition("...")
        batch = len(shape) - len(before) - len(after) if dots else 0
        names = [*before, *(f"...{place}" for place in range(batch, 0, -1)), *after]
        sizes.append({name: size for name, size in zip(names, shape, strict=True) if size > 1})
    one, other = sizes
    letters = inputs.replace(",", "").replace(".", "")
    kept = set(output if arrow else (letter for letter in letters if letters.count(letter) == 1))
    contracted = {name for name in one.keys() & other.keys() if name not in kept and not name.startswith("...")}
    if not contracted:
        return 0
    both = one | other
    return math.prod(size for name, size in both.items() if name in kept | contracted or name.startswith("..."))
