"""Small networks that differ in one thing, for studies: `cnnbench.worker.variants:resnet_plain` in a file of a study.

All take images 3x32x32 and give logits of ten classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbench.worker.builtin_models import MLP, IdentityBlock, LeNet5, Norm, SimpleCNN, begun_for_relu

IMAGE, CLASSES = (3, 32, 32), 10


class PlainBlock(IdentityBlock):
    """The same two convolutions whose output is not added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)))


class SmallResNet(nn.Module):
    """As `ResNetCIFAR`, with so many blocks in each stage of `width`, twice and four times as many channels."""

    def __init__(
        self,
        width: int = 8,
        blocks: int = 1,
        norm: Norm = nn.BatchNorm2d,
        block: Callable[[int, Norm], nn.Module] = IdentityBlock,
        classes: int = CLASSES,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(IMAGE[0], width, 3, padding=1), norm(width), nn.ReLU()]
        for stage in range(3):
            channels = width * 2**stage
            if stage:
                layers += [nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1), norm(channels), nn.ReLU()]
            layers += [block(channels, norm) for _ in range(blocks)]
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, classes)
        begun_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.features(x).mean((2, 3)))
        return logits


class Stack(nn.Module):
    """Convolutions of one size, each with ReLU, pooled after each `pooled` of them; then what `head` makes of it.

    `maps` is the rate of Dropout2d behind each pooling, `dropout` that of dropout in a head of two layers.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        kernel: int,
        pooled: int,
        head: Literal["average", "full"],
        dropout: float = 0.0,
        maps: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, side = IMAGE[0], IMAGE[1]
        for place, channels in enumerate(widths, 1):
            layers += [nn.Conv2d(before, channels, kernel, padding=kernel // 2), nn.ReLU()]
            before = channels
            if place % pooled == 0:
                layers += [nn.MaxPool2d(2)] + [nn.Dropout2d(maps)] * bool(maps)
                side //= 2
        self.features = nn.Sequential(*layers)
        self.averages = head == "average"
        hidden = [] if self.averages else [nn.Linear(before * side**2, 128), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*hidden, nn.Linear(before if self.averages else 128, CLASSES))
        begun_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        logits: Tensor = self.classifier(y.mean((2, 3)) if self.averages else torch.flatten(y, 1))
        return logits


mlp, lenet5, simple_cnn = (partial(each, IMAGE, CLASSES) for each in (MLP, LeNet5, SimpleCNN))
resnet = SmallResNet
resnet_group = partial(SmallResNet, norm=partial(nn.GroupNorm, 8))
resnet_instance = partial(SmallResNet, norm=nn.InstanceNorm2d)
resnet_none = partial(SmallResNet, norm=lambda _: nn.Identity())
resnet_deep = partial(SmallResNet, blocks=4)
resnet_plain = partial(SmallResNet, blocks=4, block=PlainBlock)
resnet_deep_none = partial(SmallResNet, blocks=4, norm=lambda _: nn.Identity())
resnet_plain_none = partial(SmallResNet, blocks=4, norm=lambda _: nn.Identity(), block=PlainBlock)
vgg = partial(Stack, (8, 8, 16, 16, 32, 32), 3, 2, "full", 0.5)
average_head = partial(Stack, (8, 16, 32), 3, 1, "average")
full_head = partial(Stack, (8, 16, 32), 3, 1, "full")
dropout_head = partial(Stack, (8, 16, 32), 3, 1, "full", 0.25)
dropout_maps = partial(Stack, (8, 16, 32), 3, 1, "full", maps=0.25)
one_5x5 = partial(Stack, (8, 16, 32), 5, 1, "full", 0.5)
three_3x3 = partial(Stack, (8, 8, 8, 16, 16, 16, 32, 32, 32), 3, 3, "full", 0.5)
one_7x7 = partial(Stack, (8, 16, 32), 7, 1, "full", 0.5)
