"""GoogLeNet: Inception modules, which look at their input through windows of several sizes at once.

Szegedy et al. 2014, "Going deeper with convolutions", table 1; the auxiliary heads as in section 5. This is
torchvision's form, taken over from TensorFlow's, which differs from the paper:
- each convolution has batch normalisation (Ioffe & Szegedy 2015) in place of a bias, and there is no local response
  normalisation;
- the windows that the paper has 5x5 are 3x3 (github.com/pytorch/vision, issue 906);
- the last max pooling is 2x2 in place of 3x3;
- the auxiliary heads average over 4x4 parts whatever the image's size, in place of 5x5 windows with stride 3;
- 20 % are dropped before the classifier in place of 40 %.
"""

from dataclasses import dataclass

from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import RELU, Widened, chain, same_conv
from cnnbench.networks.layers import (
    AdaptiveAvgPool,
    BatchNorm,
    Concat,
    Conv,
    Dropout,
    Flatten,
    Linear,
    MaxPool,
    Value,
)
from cnnbench.networks.network import Net

# 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool projection (table 1)
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}

# what follows a module: pooling, with its kernel; an auxiliary head
POOLS = {"3b": ("maxpool3", 3), "4e": ("maxpool4", 2)}
HEADS = {"4a": "aux1", "4d": "aux2"}


@dataclass(frozen=True)
class GoogLeNet(Widened):
    """A stem, nine Inception modules, a linear classifier; in training two auxiliary heads more."""

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        first, last = self._scaled(64, 192)
        x = conv_bn_relu(net.inside("conv1"), same_conv(first, 7, stride=2), x)
        x = net("maxpool1", MaxPool(3, stride=2, ceil=True), x)
        x = conv_bn_relu(net.inside("conv2"), same_conv(first), x)
        x = conv_bn_relu(net.inside("conv3"), same_conv(last, 3), x)
        x = net("maxpool2", MaxPool(3, stride=2, ceil=True), x)
        for name, row in MODULES.items():
            x = inception(net.inside(f"inception{name}"), x, self._scaled(*row))
            if name in POOLS:
                pool, kernel = POOLS[name]
                x = net(pool, MaxPool(kernel, stride=2, ceil=True), x)
            if name in HEADS:
                self._auxiliary_head(net.inside(HEADS[name]).training_only(), x, classes)
        return chain(net, x, avgpool=AdaptiveAvgPool(1), flatten=Flatten(), dropout=Dropout(0.2), fc=Linear(classes))

    def _auxiliary_head(self, net: Net, x: Value, classes: int) -> Value:
        """A small classifier on a middle layer, for its gradient (section 5)."""
        channels, hidden = self._scaled(128, 1024)
        x = net("avgpool", AdaptiveAvgPool(4), x)
        x = conv_bn_relu(net.inside("conv"), same_conv(channels), x)
        x = chain(net, x, flatten=Flatten(), fc1=Linear(hidden), relu=RELU, dropout=Dropout(0.7))
        return net("fc2", Linear(classes), x)

    def _scaled(self, *channels: int) -> tuple[int, ...]:
        return tuple(self.wide(each) for each in channels)


def inception(net: Net, x: Value, row: tuple[int, ...]) -> Value:
    """Four branches side by side: 1x1; 1x1, then 3x3; the same again; pooling, then 1x1 (figure 2b)."""
    alone, reduced_second, second, reduced_third, third, projected = row
    b1 = conv_bn_relu(net.inside("branch1"), same_conv(alone), x)
    b2 = conv_bn_relu(net.inside("branch2.0"), same_conv(reduced_second), x)
    b2 = conv_bn_relu(net.inside("branch2.1"), same_conv(second, 3), b2)
    b3 = conv_bn_relu(net.inside("branch3.0"), same_conv(reduced_third), x)
    b3 = conv_bn_relu(net.inside("branch3.1"), same_conv(third, 3), b3)
    b4 = net("branch4.0", MaxPool(3, stride=1, padding=1, ceil=True), x)
    b4 = conv_bn_relu(net.inside("branch4.1"), same_conv(projected), b4)
    return net("cat", Concat((b2, b3, b4)), b1)


def conv_bn_relu(net: Net, conv: Conv, x: Value) -> Value:
    """A convolution, its batch normalisation and its activation, each by its name."""
    return chain(net, x, conv=conv, bn=BatchNorm(), relu=RELU)


NETWORKS = [imagenet("googlenet", GoogLeNet(), "Szegedy et al. 2014, table 1")]
