"""PyTorch eager, with each batch normalisation folded into the convolution before it."""

from torch import nn
from torch.fx.experimental.optimization import fuse

from cnnbench.errors import WorkerError
from cnnbench.worker.runtimes.eager import EagerInference


class Folded(EagerInference):
    """Inference of a module that torch.fx can trace."""

    def prepared(self, module: nn.Module) -> nn.Module:
        """The folded module. Raises WorkerError if it cannot be traced, or there is nothing that can be folded."""
        before = _norms(module)
        if not before:
            raise WorkerError("the model has no batch normalisation that could be folded")
        try:
            folded = fuse(module)
        except Exception as error:
            raise WorkerError(f"torch.fx cannot trace the module: {' '.join(str(error).split())[:200]}") from None
        if _norms(folded) == before:
            raise WorkerError(f"none of the {before} batch normalisations could be folded into a convolution")
        return folded.eval()


def _norms(module: nn.Module) -> int:
    return sum(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules())
