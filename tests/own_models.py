"""Models as a user might write them: one that works, and one for each way to go wrong."""

import os
import signal
import time

import torch
from torch import Tensor, nn

FATAL_BATCH = 7


def works(num_classes: int = 5) -> nn.Module:
    """A small network for 3 x H x W images."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, num_classes),
    )


def raises() -> nn.Module:
    """Raises when it is built."""
    raise RuntimeError("no such <weights>")


def gives_a_number() -> int:
    """Is no module."""
    return 42


class OtherWhenExported(nn.Module):
    """Takes another path when it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.rest = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        y = self.first(images)
        logits: Tensor = self.rest(y if torch.compiler.is_exporting() else y.relu())
        return logits


class Conditioned(nn.Module):
    """Of an image and a vector."""

    classes = 5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.extra, self.last = nn.Linear(3, 4), nn.Linear(4, self.classes)

    def features(self, image: Tensor) -> Tensor:
        """(N, 4)."""
        return torch.relu(self.norm(self.conv(image))).mean((2, 3))

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.last(self.features(image) * torch.sigmoid(self.extra(vector)))
        return logits


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss of one's own: the mean square of the labels' log-likelihoods."""
    return outputs.log_softmax(1).gather(1, labels[:, None]).square().mean()


class Fatal(nn.Module):
    """Works, but for batches of seven images: a case fails where the model itself is fine."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = works()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        if x.shape[0] == FATAL_BATCH:
            self.die()
        logits: Tensor = self.inner(x)
        return logits

    def die(self) -> None:
        """What happens at seven images."""


class Crashes(Fatal):
    """Is killed."""

    def die(self) -> None:
        """As the system does when memory runs out."""
        os.kill(os.getpid(), signal.SIGKILL)


class Hangs(Fatal):
    """Never answers."""

    def die(self) -> None:
        """For an hour."""
        time.sleep(3600)


class Hungry(Fatal):
    """Asks for more memory than there is."""

    def die(self) -> None:
        """A petabyte."""
        torch.empty(10**15, dtype=torch.uint8)


class Relays(nn.Module):
    """Copies its activations to another layout between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.second(self.first(x).contiguous()).mean((2, 3))
        return logits


class Breaks(nn.Module):
    """Does something that torch.compile cannot put into one graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = works()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        torch._dynamo.graph_break()
        logits: Tensor = self.inner(x)
        return logits


class Denormal(nn.Module):
    """Puts out denormal numbers in the middle, and ordinary ones at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.tiny = nn.Conv2d(3, 5, 3), nn.Hardtanh(-1e-39, 1e-39)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        y: Tensor = self.conv(x)
        logits: Tensor = (y + self.tiny(y)).mean((2, 3))
        return logits


class InverseErf(nn.Module):
    """An operator that has no gradient rule, and that torch has no decomposition of."""

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        return torch.erfinv(0.5 * torch.tanh(x))


def without_rule() -> nn.Module:
    """Holds an operator that has no gradient rule."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), InverseErf(), nn.Flatten(), nn.Linear(4 * 6 * 6, 5))
