"""The networks that torchvision does not have, as torch modules; their closed forms stand in `cnnbench.networks`.

Each takes the shape of its images and its number of classes, so that its first fully connected layer fits any size, and
gives logits (N, classes).
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _pooled(size: int, *steps: int) -> int:
    """The side that is left after a 2x2 pooling behind each convolution that takes `step` pixels off."""
    for step in steps:
        size = (size - step) // 2
    return size


def begun_for_relu(module: nn.Module) -> None:
    """Begin convolutions with weights that keep the deviation of values behind ReLUs, and with biases of zero.

    He et al. 2015, "Delving deep into rectifiers", equation 10; torchvision begins those of its VGG and ResNet so. With
    PyTorch's own weights the mean square of values falls to a sixth in each layer, and a stack of six without
    normalisation is still at chance after 900 steps.
    """
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, nonlinearity="relu")
            assert child.bias is not None
            nn.init.zeros_(child.bias)


class LeNet5(nn.Module):
    """LeNet-5 with ReLU and max-pooling (LeCun et al. 1998). Input (N, C, H, W)."""

    def __init__(self, image: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = image
        self.conv1 = nn.Conv2d(channels, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * _pooled(height, 4, 4) * _pooled(width, 4, 4), 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(x)))
        return logits


class SimpleCNN(nn.Module):
    """Two 3x3 convolutions and one hidden layer. Input (N, C, H, W)."""

    def __init__(self, image: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = image
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * _pooled(height, 2, 2) * _pooled(width, 2, 2), 128)
        self.dropout = nn.Dropout(0.25)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        logits: Tensor = self.fc2(self.dropout(x))
        return logits


class VGGStyle(nn.Module):
    """Three stacks of two 3x3 convolutions, each pooled. Input (N, C, H, W)."""

    def __init__(self, image: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = image
        layers: list[nn.Module] = []
        for out_channels in (64, 128, 256):
            for in_channels in (channels, out_channels):
                layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = out_channels
        self.features = nn.Sequential(*layers)
        flat = channels * _pooled(height, 0, 0, 0) * _pooled(width, 0, 0, 0)
        self.classifier = nn.Sequential(nn.Linear(flat, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, classes))
        begun_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
        return logits


Norm = Callable[[int], nn.Module]
"""A normalisation, from its number of channels."""


class IdentityBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to their input."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + x)


class ResNetCIFAR(nn.Module):
    """A small ResNet whose stages are joined by plain strided convolutions. Input (N, C, H, W)."""

    def __init__(self, image: tuple[int, ...], classes: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(image[0], 64, 3, padding=1)
        self.bn1 = norm(64)
        self.layer1 = nn.Sequential(IdentityBlock(64, norm), IdentityBlock(64, norm))
        self.layer2 = self._stage(64, 128, norm)
        self.layer3 = self._stage(128, 256, norm)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(256, classes)
        begun_for_relu(self)

    @staticmethod
    def _stage(in_channels: int, channels: int, norm: Norm) -> nn.Sequential:
        down = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        blocks = (IdentityBlock(channels, norm) for _ in range(2))
        return nn.Sequential(down, norm(channels), nn.ReLU(), *blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.avgpool(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(torch.flatten(x, 1))
        return logits


class MLP(nn.Module):
    """One hidden layer on all pixels. Input (N, C, H, W)."""

    def __init__(self, image: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(math.prod(image), 128)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))
        return logits


class CNN1D(nn.Module):
    """Three convolutions over time, each halving the length. Input (N, C, L)."""

    def __init__(self, image: tuple[int, ...], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = image[0]
        for channels, kernel in ((16, 7), (32, 5), (64, 3)):
            conv = nn.Conv1d(before, channels, kernel, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm1d(channels), nn.ReLU(), nn.MaxPool1d(2)]
            before = channels
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool1d(1)
        self.fc = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.features(x)), 1))
        return logits


NETWORKS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "lenet5": LeNet5,
    "lenet5_32": LeNet5,
    "mlp": MLP,
    "cnn1d": CNN1D,
    "simple_cnn": SimpleCNN,
    "vgg_style": VGGStyle,
    "resnet_cifar": ResNetCIFAR,
    "resnet_cifar_gn": partial(ResNetCIFAR, norm=partial(nn.GroupNorm, 32)),
    "resnet_cifar_in": partial(ResNetCIFAR, norm=nn.InstanceNorm2d),
}
