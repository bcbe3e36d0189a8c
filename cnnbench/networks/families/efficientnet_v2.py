"""EfficientNetV2: EfficientNet with ordinary convolutions in its first stages.

Tan & Le 2021, "EfficientNetV2: smaller models and faster training", table 4 (S); the stages of M and L as published
with the authors' code. The paper prints no stage tables for M and L, which are S scaled up (section 3.3).
"""

from dataclasses import dataclass
from typing import Literal

from cnnbench.networks.architecture import imagenet
from cnnbench.networks.families.blocks import Scaled, check_probability, classify
from cnnbench.networks.families.efficientnet import Stage, features
from cnnbench.networks.layers import Dropout, Value
from cnnbench.networks.network import Net

Size = Literal["s", "m", "l"]

# expansion, stride, channels, repeats
STAGES: dict[Size, tuple[tuple[int, int, int, int], ...]] = {
    "s": (  # table 4
        (1, 1, 24, 2),
        (4, 2, 48, 4),
        (4, 2, 64, 4),
        (4, 2, 128, 6),
        (6, 1, 160, 9),
        (6, 2, 256, 15),
    ),
    "m": (
        (1, 1, 24, 3),
        (4, 2, 48, 5),
        (4, 2, 80, 5),
        (4, 2, 160, 7),
        (6, 1, 176, 14),
        (6, 2, 304, 18),
        (6, 1, 512, 5),
    ),
    "l": (
        (1, 1, 32, 4),
        (4, 2, 64, 7),
        (4, 2, 96, 7),
        (4, 2, 192, 10),
        (6, 1, 224, 19),
        (6, 2, 384, 25),
        (6, 1, 640, 7),
    ),
}

FUSED_STAGES = 3
"""So many stages, from the first, are of Fused-MBConv; the others of MBConv."""

# resolution, dropout
SETTINGS: dict[Size, tuple[int, float]] = {"s": (384, 0.2), "m": (480, 0.3), "l": (480, 0.4)}


@dataclass(frozen=True)
class EfficientNetV2(Scaled):
    """A stem as wide as the first stage, stages of fused and of plain MBConv, a 1x1 head."""

    size: Size
    dropout: float = 0.2

    def __post_init__(self) -> None:
        check_probability("dropout", self.dropout)

    def __call__(self, net: Net, x: Value, classes: int) -> Value:
        stages = [
            Stage(expansion, 3, stride, channels, repeats, fused=index < FUSED_STAGES).scaled(self.width, self.depth)
            for index, (expansion, stride, channels, repeats) in enumerate(STAGES[self.size])
        ]
        x = features(net.inside("features"), x, stages[0].channels, stages, self.wide(1280))
        return classify(net, x, classes, Dropout(self.dropout, inplace=True))


NETWORKS = [
    imagenet(f"efficientnet_v2_{size}", EfficientNetV2(size, dropout=dropout), "Tan & Le 2021, table 4", resolution)
    for size, (resolution, dropout) in SETTINGS.items()
]
