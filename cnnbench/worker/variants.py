"""Small networks that differ in one thing, for studies: `cnnbench.worker.variants:resnet_plain` in a file of a study.

All take images 3x32x32 and give logits of ten classes.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnnbench.worker.builtin_models import MLP, IdentityBlock, LeNet5, Norm, SimpleCNN, begun_for_relu

IMAGE, CLASSES, HIDDEN = (3, 32, 32), 10, 128


class PlainBlock(IdentityBlock):
    """The same two convolutions whose output is not added to their input."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)))


class SmallResNet(nn.Module):
    """As `ResNetCIFAR`, with so many blocks in each stage of `width`, twice and four times as many channels.

    `averages`: whether it ends in global average pooling and one layer; else in two layers on all values.
    """

    def __init__(
        self,
        width: int = 8,
        blocks: int = 1,
        norm: Norm = nn.BatchNorm2d,
        block: Callable[[int, Norm], nn.Module] = IdentityBlock,
        classes: int = CLASSES,
        averages: bool = True,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(IMAGE[0], width, 3, padding=1), norm(width), nn.ReLU()]
        for stage in range(3):
            channels = width * 2**stage
            if stage:
                layers += [nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1), norm(channels), nn.ReLU()]
            layers += [block(channels, norm) for _ in range(blocks)]
        self.features = nn.Sequential(*layers)
        self.averages = averages
        if averages:
            self.fc: nn.Module = nn.Linear(channels, classes)
        else:
            hidden = nn.Linear(channels * (IMAGE[1] // 4) ** 2, HIDDEN)
            self.fc = nn.Sequential(hidden, nn.ReLU(), nn.Linear(HIDDEN, classes))
        begun_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)
        logits: Tensor = self.fc(y.mean((2, 3)) if self.averages else torch.flatten(y, 1))
        return logits


class Stack(nn.Module):
    """Convolutions of one size, each with ReLU, pooled after each `pooled` of them; then two layers of a head.

    `maps` is the rate of Dropout2d behind each pooling, `dropout` that of dropout in the head.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        kernel: int,
        pooled: int,
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
        hidden = [nn.Linear(before * side**2, HIDDEN), nn.ReLU(), nn.Dropout(dropout)]
        self.classifier = nn.Sequential(*hidden, nn.Linear(HIDDEN, CLASSES))
        begun_for_relu(self)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.flatten(self.features(x), 1))
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
full_head = partial(SmallResNet, averages=False)
vgg = partial(Stack, (8, 8, 16, 16, 32, 32), 3, 2, 0.5)
one_5x5 = partial(Stack, (8, 16, 32), 5, 1, 0.5)
three_3x3 = partial(Stack, (8, 8, 8, 16, 16, 16, 32, 32, 32), 3, 3, 0.5)
one_7x7 = partial(Stack, (8, 16, 32), 7, 1, 0.5)
stack = partial(Stack, (8, 16, 32), 3, 1)
dropout_head = partial(Stack, (8, 16, 32), 3, 1, 0.25)
dropout_maps = partial(Stack, (8, 16, 32), 3, 1, maps=0.25)
