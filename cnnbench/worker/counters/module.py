"""Parameters, from the module itself; and a module's own count, from counts that include its children's."""

from collections.abc import Mapping

from torch import nn

from cnnbench.records.record import Counts


def count(module: nn.Module) -> Counts:
    """Parameters by the submodule that holds them; a shared parameter counts where it is first found."""
    counts: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        owner = name.rpartition(".")[0]
        counts[owner] = counts.get(owner, 0) + parameter.numel()
    return {name: (params, 0) for name, params in counts.items()}


def exclusive(inclusive: Mapping[str, int]) -> dict[str, int]:
    """What each module counts itself, from counts that include its children's; zeros are left out."""
    own = dict(inclusive)
    for name, value in inclusive.items():
        if name:
            parent = name.rpartition(".")[0]
            while parent not in inclusive:
                parent = parent.rpartition(".")[0]
            own[parent] -= value
    return {name: value for name, value in own.items() if value}
