"""Segmentation networks: a classifier's features, a head that gives logits at each position, and their interpolation.

All are torchvision's forms. The auxiliary head, on features of a middle layer (Zhao et al. 2016, "Pyramid scene parsing
network", section 3.3), is there as in torchvision's published weights; unlike those of GoogLeNet and Inception it runs
in inference too, and its logits are the second output.

FCN: Long et al. 2015, "Fully convolutional networks for semantic segmentation"; torchvision's has the dilated
ResNet and two convolutions for a head, in place of VGG and of the fusion with features of earlier layers.
DeepLabV3: Chen et al. 2017, "Rethinking atrous convolution for semantic image segmentation", figure 5.
LR-ASPP: Howard et al. 2019, "Searching for MobileNetV3", figure 10; torchvision averages the whole map in place of
windows of 49x49 with stride 16x20.
"""

from collections.abc import Callable
from dataclasses import dataclass

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import Architecture
from cnnbench.networks.families.blocks import RELU, same_conv, sequential
from cnnbench.networks.families.mobilenet import MobileNetV3
from cnnbench.networks.families.resnet import BLOCKS_PER_STAGE, ResNet
from cnnbench.networks.layers import Value
from cnnbench.networks.network import Describe, Net

CLASSES = 21
"""Pascal VOC's 20 and the background."""
SIZE = 520
"""To which torchvision resizes the shorter side of an image for its published weights."""
RATES = (12, 24, 36)
"""Dilations of DeepLabV3's 3x3 convolutions where the features have an eighth of the image's sides."""
ASPP_CHANNELS, LRASPP_CHANNELS = 256, 128

Backbone = Callable[[Net, Value], tuple[Value, Value]]
"""Adds a classifier's layers to the net; returns features of a middle layer and of the last, each (C, H, W)."""


def resnet(depth: int) -> Backbone:
    """A dilated ResNet: the outputs of stages 3 and 4, both with an eighth of the image's sides."""

    def features(net: Net, x: Value) -> tuple[Value, Value]:
        *_, third, fourth = ResNet(BLOCKS_PER_STAGE[depth], bottleneck=True, dilated=True).stages(net, x)
        return third, fourth

    return features


def mobilenet(net: Net, x: Value) -> tuple[Value, Value]:
    """A dilated MobileNetV3: features with an eighth of the image's sides, and the last, with a sixteenth."""
    outputs = MobileNetV3("large", dilated=True).features(net, x)
    return outputs[4], outputs[-1]


@dataclass(frozen=True)
class FCN:
    """Two convolutions on the last features, and the same on the middle ones: the auxiliary head."""

    backbone: Backbone

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        middle, last = self.backbone(net.inside("backbone"), x)
        y = self.head(net.inside("classifier"), last, classes)
        y = net("interpolate", nn.Resize(x.shape[1:]), y)
        z = _convolutions(net.inside("aux_classifier"), middle, classes)
        net("aux_interpolate", nn.Resize(x.shape[1:]), z)
        return y

    def head(self, net: Net, x: Value, classes: int) -> Value:
        """Logits at each position of the features."""
        return _convolutions(net, x, classes)


def _convolutions(net: Net, x: Value, classes: int) -> Value:
    """A 3x3 convolution to a quarter of the channels, and a 1x1 to the classes."""
    conv = same_conv(x.channels // 4, 3)
    ops = conv, nn.BatchNorm(), nn.Activation(), nn.Dropout(0.1), nn.Conv(classes, kernel=1)
    return sequential(net, x, *ops)


class DeepLabV3(FCN):
    """Atrous spatial pyramid pooling, a 3x3 and a 1x1 convolution on the last features; the auxiliary head of FCN."""

    def head(self, net: Net, x: Value, classes: int) -> Value:
        """A 1x1 convolution, three dilated 3x3 and the mean of all positions, side by side; one after the other."""
        norm, relu, convs = nn.BatchNorm(), nn.Activation(), net.inside("0.convs")
        dilated = [same_conv(ASPP_CHANNELS, 3, dilation=rate) for rate in RATES]
        branches = [
            sequential(convs.inside(f"{index}"), x, conv, norm, relu)
            for index, conv in enumerate([same_conv(ASPP_CHANNELS), *dilated])
        ]
        last = convs.inside(f"{len(branches)}")
        y = sequential(last, x, nn.AdaptiveAvgPool(1), same_conv(ASPP_CHANNELS), norm, relu)
        branches.append(last("interpolate", nn.Resize(x.shape[1:]), y))
        y = net("0.cat", nn.Concat(tuple(branches[1:])), branches[0])
        y = sequential(net.inside("0.project"), y, same_conv(ASPP_CHANNELS), norm, relu, nn.Dropout(0.5))
        return sequential(net, y, same_conv(ASPP_CHANNELS, 3), norm, relu, nn.Conv(classes, kernel=1), start=1)


@dataclass(frozen=True)
class LRASPP:
    """The last features scaled by a factor per channel; logits are the sum of those of last and middle features."""

    backbone: Backbone

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        middle, last = self.backbone(net.inside("backbone"), x)
        head, conv = net.inside("classifier"), same_conv(LRASPP_CHANNELS)
        y = sequential(head.inside("cbr"), last, conv, nn.BatchNorm(), RELU)
        factors = sequential(head.inside("scale"), last, nn.AdaptiveAvgPool(1), conv, nn.Activation("sigmoid"))
        y = head("mul", nn.Scale((factors,)), y)
        y = head("interpolate", nn.Resize(middle.shape[1:]), y)
        low = head("low_classifier", nn.Conv(classes, kernel=1), middle)
        high = head("high_classifier", nn.Conv(classes, kernel=1), y)
        return net("interpolate", nn.Resize(x.shape[1:]), head("add", nn.Add((high,)), low))


def _member(name: str, describe: Describe, source: str) -> Architecture:
    return Architecture(name=name, describe=describe, image=(3, SIZE, SIZE), classes=CLASSES, source=source)


CHEN = "Chen et al. 2017, figure 5"

NETWORKS = [
    *(_member(f"fcn_resnet{depth}", FCN(resnet(depth)), "after Long et al. 2015") for depth in (50, 101)),
    *(_member(f"deeplabv3_resnet{depth}", DeepLabV3(resnet(depth)), CHEN) for depth in (50, 101)),
    _member("deeplabv3_mobilenet_v3_large", DeepLabV3(mobilenet), CHEN),
    _member("lraspp_mobilenet_v3_large", LRASPP(mobilenet), "Howard et al. 2019, figure 10"),
]
