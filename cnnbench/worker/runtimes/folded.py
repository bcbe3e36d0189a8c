"""PyTorch eager, with each batch normalisation folded into the convolution before it."""

from torch import nn
from torch.fx.experimental.optimization import fuse

from cnnbench.errors import WorkerError
from cnnbench.worker.runtimes.eager import EagerInference


class Folded(EagerInference):
    """Inference of a module that torch.fx can trace."""

    def prepared(self, module: nn.Module) -> nn.Module:
        """The folded module. Raises WorkerError if it cannot be traced, or nothing can be folded."""
        before = _norms(module)
        try:
            folded = fuse(module)
        except Exception as error:
            raise WorkerError(f"torch.fx cannot trace the module: {' '.join(str(error).split())[:200]}") from None
        if before and _norms(folded) == before:
            raise WorkerError(f"none of the {before} batch normalisations could be folded into a convolution")
        return folded.eval()


def _norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d) for child in module.modules())
