"""Transforms by name: what may be named, what torchvision makes of it, and training runs that have them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cnnbench.errors import InputError
from cnnbench.suite.transforms import NAMES, check_transform
from cnnbench.worker.data.transforms import Augmentation
from cnnbench.worker.training_run import TrainingRun
from tests.conftest import Cli
from tests.test_resume import epoch, plan, unevaluated
from tests.test_train import stripes

__all__ = ["stripes", "unevaluated"]

NOTE = """
    transforms.RandomCrop(32, padding=4),
    transforms.RandomHorizontalFlip(),
    transforms.RandomRotation(15),
    transforms.ColorJitter(brightness=0.2, contrast=0.2),
    transforms.ToTensor(),
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32)).astype(np.uint8)


def test_the_lines_of_an_introduction_are_transforms_word_for_word() -> None:
    assert [check_transform(line) for line in NOTE.strip().splitlines()] == [
        "RandomCrop(32, padding=4)",
        "RandomHorizontalFlip()",
        "RandomRotation(15)",
        "ColorJitter(brightness=0.2, contrast=0.2)",
        "ToTensor()",
        "Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))",
    ]
    assert check_transform("RandomHorizontalFlip") == "RandomHorizontalFlip()"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("RandomCorp(32)", "expected a transform, one of .*; got 'RandomCorp'.*did you mean 'RandomCrop'"),
        ("Lambda(print)", "one of .* known names; got 'Lambda'"),
        ("os.system('true')", "such as RandomCrop"),
        ("__import__('os').system('true')", "such as RandomCrop"),
        ("RandomCrop(open('/etc/passwd'))", "such as RandomCrop"),
        ("RandomCrop((lambda: 32)())", "such as RandomCrop"),
        ("RandomCrop(*[32])", "such as RandomCrop"),
        ("RandomCrop(**{'size': 32})", "such as RandomCrop"),
        ("RandomCrop({'a': 1})", "such as RandomCrop"),
        ("RandomCrop(9**9)", "such as RandomCrop"),
        ("RandomCrop(32", "such as RandomCrop"),
        ("RandomCrop([1, [2, 99999]])", "numbers of at most 10,000"),
        ("RandomRotation(1e999)", "numbers of at most 10,000"),
        ("RandomCrop(" + "(" * 400, "at most 300 characters; got 411"),
    ],
)
def test_nothing_but_a_known_name_with_numbers_words_and_lists_is_a_transform(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_transform(text)


def test_every_name_is_torchvisions() -> None:
    assert all(issubclass(getattr(v2, name), v2.Transform) for name in NAMES)


def test_images_become_what_torchvision_makes_of_pictures_and_the_seed_settles_which() -> None:
    texts = ["RandomCrop(32, padding=4)", "RandomHorizontalFlip()", "ColorJitter(brightness=0.2)"]
    augmentation = Augmentation(texts, IMAGES[0], "images")
    own = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.2)])
    before = torch.get_rng_state()
    made = augmentation(IMAGES, 7)
    assert torch.equal(torch.get_rng_state(), before), "dropout's numbers do not depend on it"
    torch.manual_seed(7)
    expected = [np.asarray(own(Image.fromarray(each.transpose(1, 2, 0)))).transpose(2, 0, 1) for each in IMAGES]
    np.testing.assert_array_equal(made, np.stack(expected))
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, augmentation(IMAGES, 7))
    assert (made != augmentation(IMAGES, 8)).any()


def test_a_tensor_of_shares_is_in_the_units_of_stored_images_again() -> None:
    plain, as_tensor = (Augmentation(texts, IMAGES[0], "x")(IMAGES, 0) for texts in ([], ["ToTensor()"]))
    assert as_tensor.dtype == np.float32
    np.testing.assert_allclose(as_tensor, plain, atol=1e-3)


@pytest.mark.parametrize(
    ("texts", "image", "message"),
    [
        (["Normalize((0.5,), (0.5,))"], IMAGES[0], "training normalises by the mean and deviation of its own images"),
        (["RandomCrop(99)"], IMAGES[0], r"transform RandomCrop\(99\): cannot be applied to a picture of 32x32, RGB: "),
        (["RandomCrop(size=3, of=4)"], IMAGES[0], r"transform RandomCrop\(size=3, of=4\): .*'of'"),
        (["RandomErasing(p=1.0, ratio=3)"], IMAGES[0], "transform RandomErasing"),
        ([], np.zeros((1, 512), np.float32), "x: expected images of bytes with 1 or 3 channels .* float32 of 1x512"),
    ],
)
def test_what_cannot_be_applied_is_told(texts: list[str], image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation(texts, image, "x")


def test_images_of_several_sizes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = Augmentation(["Resize(20)"], IMAGES[0], "x")
    sizes = iter((20, 20, 24))
    monkeypatch.setattr(augmentation, "_applied", lambda _: torch.zeros(3, next(sizes), 20))
    with pytest.raises(
        InputError, match=r"expected images of one size behind them; got \(3, 20, 20\) and \(3, 24, 20\)"
    ):
        augmentation(IMAGES, 0)


@pytest.mark.usefixtures("unevaluated")
def test_both_runtimes_train_on_the_same_draws_and_a_run_goes_on_with_those_of_its_epochs(stripes: Path) -> None:
    def losses(runtime: str, *transforms: str, name: str = "w") -> list[float]:
        run = TrainingRun(plan(stripes, f"{name}.safetensors", runtime=runtime, transforms=list(transforms)))
        epoch(run)
        epoch(run)
        return [each.loss for each in run.state.history]

    drawn = losses("eager", "RandomCrop(28, padding=4)", name="whole")
    np.testing.assert_allclose(losses("ort", "RandomCrop(28, padding=4)"), drawn, rtol=0.01)
    assert abs(losses("eager")[0] - drawn[0]) > 0.001
    given: dict[str, Any] = {"runtime": "eager", "transforms": ["RandomCrop(28, padding=4)"]}
    first = TrainingRun(plan(stripes, **given))
    epoch(first)
    second = TrainingRun(plan(stripes, **given, resume=True))
    epoch(second)
    assert [each.loss for each in second.state.history] == drawn
    with pytest.raises(InputError, match="of another run, with transforms"):
        TrainingRun(plan(stripes, runtime="eager", resume=True))


def test_a_transform_that_does_not_fit_is_told(stripes: Path, cli: Cli) -> None:
    done = cli("train", "lenet5", "--data", str(stripes), "--transform", "Lambda(print)")
    assert done.returncode == 2
    assert "--transform: expected a transform, one of" in done.stderr
    with pytest.raises(InputError, match="expected a model for images of at least 1x40x40"):
        TrainingRun(plan(stripes, runtime="eager", transforms=["Resize(40)"]))
