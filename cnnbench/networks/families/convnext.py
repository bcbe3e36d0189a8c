"""ConvNeXt: a ResNet rebuilt with what vision transformers have.

Liu et al. 2022, "A ConvNet for the 2020s", section 3 (the variants' C and B) and table 9 (T, layer by layer);
stochastic depth as in table 5. Layer scale: Touvron et al. 2021, "Going deeper with image transformers". The 1x1
convolutions of table 9 are fully connected layers on the last axis, in the authors' code as in torchvision.
"""

import math
from dataclasses import dataclass

from cnnbench.networks import layers as nn
from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import Scaled, chain, check_probability, sequential
from cnnbench.networks.layers import Value
from cnnbench.networks.network import Net

# blocks B and channels C of each stage, stochastic depth of the last block
VARIANTS = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768), 0.1),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768), 0.4),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024), 0.5),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536), 0.5),
}

EXPANSION = 4
"""Of a block's inverted bottleneck (section 2.4)."""

CHANNELS_LAST = nn.Permute((1, 2, 0))
CHANNELS_FIRST = nn.Permute((2, 0, 1))


@dataclass(frozen=True)
class ConvNeXt(Scaled):
    """A stem of 4x4 patches, stages of so many blocks with 2x2 downsampling between them."""

    blocks: tuple[int, ...]
    """B: of each stage."""
    widths: tuple[int, ...]
    """C: channels of each stage."""
    drop: float = 0.0
    """Probability that the last block is dropped; the first never is, and between it grows evenly."""

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.widths):
            raise ValueError(f"widths: expected one for each of {len(self.blocks)} stages; got {len(self.widths)}")
        if any(width % 8 for width in self.widths):
            raise ValueError(f"widths: expected multiples of 8; got {'-'.join(map(str, self.widths))}")
        check_probability("drop", self.drop)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        blocks_of = [math.ceil(blocks * self.depth) for blocks in self.blocks]
        features = net.inside("features")
        done, last = 0, sum(blocks_of) - 1
        for stage, (blocks, width) in enumerate(zip(blocks_of, self.widths, strict=True)):
            channels = self.wide(width)
            if stage == 0:
                x = features("0.0", nn.Conv(channels, kernel=4, stride=4), x)
                x = _norm(features, "0.1", x)
            else:
                x = _norm(features, f"{2 * stage}.0", x)
                x = features(f"{2 * stage}.1", nn.Conv(channels, kernel=2, stride=2), x)
            for index in range(blocks):
                x = _block(features, f"{2 * stage + 1}.{index}", x, self.drop * done / max(1, last))
                done += 1
        x = net("avgpool", nn.AdaptiveAvgPool(1), x)
        x = _norm(net, "classifier.0", x)
        return sequential(net.inside("classifier"), x, nn.Flatten(), nn.Linear(classes), start=1)


def _block(net: Net, name: str, x: Value, drop: float) -> Value:
    """Depthwise 7x7, layer normalisation, to four times the channels and back (figure 4), scaled and added."""
    y = sequential(
        net.inside(f"{name}.block"),
        x,
        nn.Conv(x.channels, kernel=7, padding=3, groups=x.channels),
        CHANNELS_LAST,
        nn.LayerNorm(),
        nn.Linear(EXPANSION * x.channels),
        nn.Activation("gelu"),
        nn.Linear(x.channels),
        CHANNELS_FIRST,
    )
    y = net(name, nn.LayerScale(), y)
    return chain(net.inside(name), y, stochastic_depth=nn.StochasticDepth(drop), add=nn.Add((x,), inplace=True))


def _norm(net: Net, name: str, x: Value) -> Value:
    """Layer normalisation over an image's channels, at each of its positions."""
    x = net(f"{name}.channels_last", CHANNELS_LAST, x)
    x = net(name, nn.LayerNorm(), x)
    return net(f"{name}.channels_first", CHANNELS_FIRST, x)


NETWORKS = [imagenet(f"convnext_{name}", ConvNeXt(*row), "Liu et al. 2022, table 9") for name, row in VARIANTS.items()]
