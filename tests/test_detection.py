"""torchvision's detection networks: up to their heads, and with what comes behind them."""

import re
from typing import Any

import pytest
import torch
from torchvision.models import get_model_weights

from cnnbench.analysis import counts
from cnnbench.errors import ModelError
from cnnbench.networks import registry
from cnnbench.records.messages import Count
from cnnbench.suite.case import Case, ModelSpec
from cnnbench.suite.runtimes import cannot
from cnnbench.worker import models
from cnnbench.worker.counters import collect as counters
from cnnbench.worker.counters.module import dispatched
from cnnbench.worker.detection import WithPostProcessing
from cnnbench.worker.export import inference
from cnnbench.worker.signature import flat

GIGA = 1e9
SSD, RCNN = "torchvision/ssdlite320_mobilenet_v3_large", "torchvision/fasterrcnn_mobilenet_v3_large_fpn"
ALL_NETWORKS = [
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fcos_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
]
REGIONS_LOOKED_AT = {"fasterrcnn_resnet50_fpn": 1000}
"""In the image by which torchvision counted; in that of the others none was proposed."""
PER_REGION = 256 * 7 * 7 * 1024 + 1024 * 1024 + 1024 * 91 + 1024 * 4 * 91
"""Two fully connected layers on features of 256x7x7, a score and four sides of a box for each class."""


def built(name: str, size: int = 64) -> torch.nn.Module:
    return models.build(ModelSpec(model=name, image_size=(size, size)))[0].eval()


@pytest.mark.parametrize("name", ALL_NETWORKS)
def test_macs_up_to_the_heads_are_those_that_torchvision_publishes(name: str) -> None:
    with torch.device("meta"):
        module, image = models.build(ModelSpec(model=f"torchvision/{name}/heads"))
    assert isinstance(image, tuple)
    macs = sum(layer for _, layer in dispatched(module.eval(), torch.zeros(1, *image, device="meta")).values())
    macs += REGIONS_LOOKED_AT.get(name, 0) * PER_REGION
    assert round(macs / GIGA, 3) == get_model_weights(name).DEFAULT.meta["_ops"]


@pytest.mark.parametrize("name", [SSD, RCNN])
def test_both_put_out_what_the_heads_make_of_the_same_images_and_boxes_are_only_found_by_one(name: str) -> None:
    whole, heads = built(name), built(f"{name}/heads")
    assert isinstance(whole, WithPostProcessing)
    detector: Any = whole.detector
    images, found = torch.rand(2, 3, 64, 64), []
    detector.register_forward_hook(lambda *call: found.extend(call[-1]))
    with torch.inference_mode():
        of_whole, of_heads = flat(whole(images)), flat(heads(detector.transform(list(images))[0].tensors))
    assert len(of_whole) > 1
    assert all(map(torch.equal, of_whole, of_heads))
    assert [set(each) for each in found] == [{"boxes", "labels", "scores"}] * 2


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_counter_counts_a_detection_network_up_to_its_heads() -> None:
    spec = ModelSpec(model=SSD, image_size=(64, 64))
    found = counters.count(Count(spec=spec))
    assert set(found.counted) == {"module", "dispatch", "fvcore", "backward", "onnx"}
    assert counts.find(spec, found).disagreements == []


def test_post_processing_cannot_be_exported_and_the_reason_says_what_can() -> None:
    with pytest.raises(Exception, match="it") as refused:
        inference.trace(built(SSD), torch.zeros(2, 3, 64, 64))
    assert "depends on values; add /heads to the model's name" in inference.said(refused.value)


@pytest.mark.parametrize(
    ("name", "runtime", "workload", "why"),
    [
        (SSD, "eager", "inference", None),
        (SSD, "ort", "inference", f"what a detection network does .* depends on values; ort runs {SSD}/heads"),
        (SSD, "compile", "inference", f"compile runs {SSD}/heads"),
        (f"{SSD}/heads", "ort", "inference", None),
        (f"{SSD}/heads", "eager", "training", "is trained on boxes"),
        (SSD, "eager", "training", "is trained on boxes"),
        ("torchvision/vit_b_16", "eager", "training", None),
    ],
)
def test_what_cannot_be_timed_says_why(name: str, runtime: str, workload: str, why: str | None) -> None:
    said = cannot(runtime, workload, "cpu", "fp32", "nchw", model=name)
    assert said is None if why is None else re.search(why, said or "")


def test_only_a_detection_network_has_heads() -> None:
    assert registry.check_name(f"{RCNN}/heads") == f"{RCNN}/heads"
    with pytest.raises(ValueError, match=r"timm/vgg11/heads.*a model is"):
        registry.check_name("timm/vgg11/heads")
    with pytest.raises(ModelError, match="expected a detection network before /heads; got 'resnet18'"):
        built("torchvision/resnet18/heads")


def test_a_cases_name_has_the_heads() -> None:
    id_ = f"{SSD}/heads@64x64/inference/ort/cpu/fp32/b1"
    assert Case.from_id(id_).spec.model == f"{SSD}/heads"
    assert Case.from_id(id_).id == id_
