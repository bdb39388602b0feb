"""What every model of the registry promises, whichever paper it is from; one full model a trunk in the quick run."""

import pytest
import torch
from few_steps import CLASSES, losses_of_steps, parameters_without_finite_gradient
from torch import Tensor, nn

from deeplab_lesson import create_model, list_models
from deeplab_lesson.data import EvalTransform, ImageMaskFolder, Scenes
from deeplab_lesson.losses import cross_entropy

MINIS = list_models("*_mini")
FULL = sorted(set(list_models()) - set(MINIS))
ONE_A_TRUNK = {  # ResNet-101 is ResNet-50 with more of the same units
    "deeplabv1_largefov",  # VGG-16
    "deeplabv3_resnet50",
    "deeplabv3plus_mobilenetv3",
    "deeplabv3plus_resnet18",
    "deeplabv3plus_xception65",
    "segnet_vgg16",  # VGG-16 with BatchNorm
    "unet",
}
FULL_ONE_A_TRUNK_QUICK = [
    pytest.param(name, marks=[] if name in ONE_A_TRUNK else pytest.mark.slow, id=name) for name in FULL
]
FIVE_STEPS_ELSEWHERE = ("deeplabv3plus_mobilenetv3", "deeplabv3plus_xception65")  # in test_xception_mobilenet.py
# For all of them. Adam, since the length of the gradient is 0.9 for LargeFOV and 3000 for v2's ResNet-101, both without
# pretrained weights: no rate of SGD serves both.
LEARNING_RATE = 1e-4
SIZE = (65, 97)


def build(name: str, seed: int = 0, **options: object) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, 5, **options)


def noise(batch: int, *size: int) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def distance(got: Tensor, want: Tensor) -> float:
    """The length of the difference, of the length of what it should be."""
    return ((got.float() - want).norm() / want.norm()).item()


@pytest.fixture(scope="module", params=[*MINIS, *FULL_ONE_A_TRUNK_QUICK])
def known(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in eval mode, two images and their logits.

    BatchNorm keeps its first statistics and biases are zero: the network only scales, so that a rounding error stays
    as small at its end as it was (with a batch's statistics, a random ResNet-101 makes it 100 times larger).
    """
    model = build(request.param).eval()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    images = noise(2, *SIZE)
    with torch.no_grad():
        logits = model(images)
    assert logits.isfinite().all()
    assert distance(logits[:1], logits[1:]) > 0.01, "the images differ, and so do their logits"
    return model, images, logits


def test_channels_last_changes_nothing(known):
    model, images, want = known
    model.to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            got = model(images.to(memory_format=torch.channels_last))
    finally:
        model.to(memory_format=torch.contiguous_format)
    assert got.shape == want.shape
    assert distance(got, want) < 1e-5  # the largest measured: 3e-6


def test_bfloat16_autocast_stays_near_float32(known):
    """bfloat16 has 8 bits, so that a value is off by up to 0.4 %; through a network, 0.6 to 1.4 % were measured."""
    model, images, want = known
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = model(images)
    assert got.dtype == torch.bfloat16
    assert got.isfinite().all()
    # SegNet's unpooling jumps where rounding moves a maximum to another pixel; 22 % were measured
    assert distance(got, want) < (0.4 if "segnet" in model.spec["name"] else 0.03)


def test_batch_of_two_equals_one_by_one_in_eval_mode(known):
    model, images, want = known
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
    assert distance(alone, want) < 1e-5


@pytest.mark.parametrize("name", [*MINIS, *FULL_ONE_A_TRUNK_QUICK])
def test_seed_decides_weights_and_logits_bit_for_bit(name):
    images = noise(2, 49, 49)
    model, again = build(name), build(name)
    weights = again.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    with torch.no_grad():  # in training mode: dropout draws from the same seed
        torch.manual_seed(2)
        want = model.train()(images)
        torch.manual_seed(2)
        assert torch.equal(again.train()(images), want)
    del model, again
    other = build(name, seed=1).state_dict()
    kernels = [key for key, value in weights.items() if value.ndim == 4 and value.abs().sum() > 0]
    same = [key for key in kernels if torch.equal(other[key], weights[key])]
    assert len(kernels) > 3
    assert all(key.startswith(("double_", "enlarge")) for key in same), "only FCN's interpolation is not random"


# sizes ----------------------------------------------------------------------------------------------------------


RESNETS = [f"{system}_resnet{depth}" for system in ("deeplabv3", "deeplabv3plus") for depth in (50, 101)]
REST = ["attention_to_scale_resnet50", "deeplabv3plus_resnet18", "panoptic_deeplab_resnet50", "segnet_vgg16"]


@pytest.mark.parametrize("name", [*RESNETS, *REST])
def test_logits_have_the_size_of_the_image(name):
    """Of the other full models, the tests beside their papers say so."""
    with torch.device("meta"):
        model = create_model(name, 5).eval()
        for size in [(33, 33), (65, 97), (321, 321), (513, 513)]:
            assert model(torch.empty(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("deeplabv3plus_mini", 321),
        ("deeplabv3plus_mini", 513),
        *(
            pytest.param(name, side, marks=[] if (name[-2:], side) == ("50", 321) else pytest.mark.slow)
            for name in RESNETS
            for side in (321, 513)
        ),
    ],
)
def test_v3_and_v3plus_take_the_papers_crops(name, side):
    with torch.no_grad():
        logits = build(name).eval()(noise(1, side, side))
    assert logits.shape == (1, 5, side, side)
    assert logits.isfinite().all()


# learning -------------------------------------------------------------------------------------------------------


def test_v3plus_mini_learns_four_pictures_in_thirty_steps():
    """The other minis stand beside their papers' tests."""
    torch.manual_seed(0)
    losses = losses_of_steps(create_model("deeplabv3plus_mini", CLASSES))
    assert losses[-1] < losses[0] / 2, losses


class AllHeads(nn.Module):
    """Everything that training needs, in a row: the logits alone do not reach Panoptic-DeepLab's other heads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([head.flatten(1) for head in self.model.forward_heads(images).values()], dim=1)


@pytest.mark.parametrize("name", [p for p in FULL_ONE_A_TRUNK_QUICK if p.id not in FIVE_STEPS_ELSEWHERE])
def test_every_gradient_is_finite_and_five_steps_lower_the_loss(name):
    pairs = [Scenes("train", (65, 65), length=2, transform=EvalTransform())[index] for index in range(2)]
    images, labels = (torch.stack(each) for each in zip(*pairs, strict=True))
    torch.manual_seed(0)
    model = create_model(name, CLASSES).train()
    assert parameters_without_finite_gradient(AllHeads(model), images) == []
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(cross_entropy(model(images), labels).item())
    assert losses[-1] < 0.95 * losses[0], losses


# number of classes ----------------------------------------------------------------------------------------------


def test_one_class_is_refused_with_the_way_out():
    message = r"num_classes=1: softmax.*from 2 to 255.*take 2 \(0 background, 1 object\).*classes\.txt.*sigmoid"
    for name in ("deeplabv3plus_mini", "unet"):
        with pytest.raises(ValueError, match=message):
            create_model(name, 1)


def test_two_classes_are_the_least(mask_copy):
    assert create_model("deeplabv3plus_mini", 2).eval()(noise(1, 33, 33)).shape == (1, 2, 33, 33)
    (mask_copy / "classes.txt").write_text("road\n")
    folder = ImageMaskFolder(mask_copy, "train")
    assert folder.classes == ("road",)
    with pytest.raises(ValueError, match=r"name both in classes\.txt"):
        create_model("deeplabv3plus_mini", len(folder.classes))


@pytest.mark.parametrize("num_classes", [0, -2, 256, 2.0, True, "2"])
def test_number_of_classes_that_is_no_whole_number_from_2_to_255_is_refused(num_classes):
    with pytest.raises(ValueError, match=r"num_classes=.*allowed are whole numbers from 2 to 255"):
        create_model("unet_mini", num_classes)
