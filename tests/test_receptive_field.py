"""The receptive field: the closed form, the measured field and the published figures agree."""

import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import deeplab_lesson
from deeplab_lesson import cli, create_model, list_models, plan_dilation
from deeplab_lesson.backbones import MiniTrunk, ResNetTrunk
from deeplab_lesson.receptive_field import ReceptiveField, gradient_receptive_field, layer_table, receptive_field

FULL = sorted(set(list_models()) - set(list_models("*_mini")))
WITH_IMAGE_POOLING = ("deeplabv3", "panoptic_deeplab")  # they have an option to do without


class Branches(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([branch(images) for branch in self.branches], dim=1)


class Sum(Branches):
    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([branch(images) for branch in self.branches]).sum(dim=0)


class Function(nn.Module):
    """Any function of an image that has one channel."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.before = nn.Conv2d(1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.before(images))


def torchvision_trunk(depth: int) -> nn.Sequential:
    from torchvision.models import get_model

    return nn.Sequential(*list(get_model(f"resnet{depth}", weights=None).children())[:-2])


def stride_in_last_units(trunk: nn.Sequential) -> nn.Sequential:
    """TensorFlow-slim's layout: a stage strides in the 3x3 of its last unit, not the next one in its first."""
    stages = list(trunk)[4:]
    for stage, following in itertools.pairwise(stages):
        following[0].conv2.stride = following[0].downsample[0].stride = (1, 1)
        stage[-1].conv2.stride = (2, 2)
        stage[-1].downsample = nn.MaxPool2d(1, stride=2)
    return trunk


def height(field: ReceptiveField) -> tuple[float, float, float]:
    return field.size[0], field.stride[0], field.offset[0]


def measured_height(module: nn.Module, field: ReceptiveField, wide: int = 33) -> tuple[float, float, float]:
    """The height measured on an image just tall enough (a multiple of 64) and narrow."""
    tall = 64 * math.ceil((field.size[0] + 80) / 64)
    return height(gradient_receptive_field(module, (tall, wide)))


# published figures ----------------------------------------------------------------------------------------------


def test_vgg16_to_pool5_sees_212_pixels():
    from torchvision.models import vgg16

    with torch.device("meta"):
        features = vgg16(weights=None).features
    field = receptive_field(features)
    assert field == ReceptiveField((212, 212), (32, 32), (-90, -90))
    assert measured_height(features, field) == (212, 32, -90)


@pytest.mark.parametrize(("depth", "strides_first", "strides_last"), [(50, 427, 483), (101, 971, 1027)])
def test_resnet_sees_what_its_strides_layout_gives(depth, strides_first, strides_last):
    """Araujo et al. 2019 print 483 and 1027, for TensorFlow-slim's layout; torchvision's layout gives 427 and 971."""
    with torch.device("meta"):
        trunk = torchvision_trunk(depth)
    assert receptive_field(trunk).size == (strides_first, strides_first)
    field = receptive_field(stride_in_last_units(trunk))
    assert (field.size, field.stride) == ((strides_last, strides_last), (32, 32))


@pytest.mark.parametrize("move", [nn.Identity(), stride_in_last_units], ids=["first", "last"])
def test_the_measured_field_of_resnet50_is_the_closed_form_in_both_layouts(move):
    with torch.device("meta"):
        trunk = move(torchvision_trunk(50))
    field = receptive_field(trunk)
    assert measured_height(trunk, field) == height(field)


@pytest.mark.parametrize("output_stride", [32, 16, 8, 4])
@pytest.mark.parametrize(("trunk", "size"), [("mini", 383), (50, 427), (101, 971)])
def test_a_dense_trunk_sees_what_the_strided_one_sees_in_smaller_steps(trunk, size, output_stride):
    plan = plan_dilation(output_stride)
    with torch.device("meta"):
        module = MiniTrunk(plan) if trunk == "mini" else ResNetTrunk(trunk, plan)
    field = receptive_field(module)
    assert (field.size, field.stride) == ((size, size), (output_stride, output_stride))
    if trunk == "mini":
        assert measured_height(module, field) == height(field)


# closed form against measurement --------------------------------------------------------------------------------


def with_options(name: str) -> dict[str, bool]:
    return {"image_pooling": False} if name.startswith(WITH_IMAGE_POOLING) else {}


def check_model(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 3, **with_options(name))
    field = receptive_field(model)
    assert field.stride == (1, 1), "logits have the size of the image"
    if math.isinf(field.size[0]):
        rest = receptive_field(model, image_level=False)
        assert math.isfinite(rest.size[0])
        assert math.isinf(measured_height(model, rest)[0]), "the image-level branch sees more than the others"
    else:
        wide = (
            97 if name == "deeplabv1_4x4" else 33
        )  # an even kernel at rate 8 has no tap on the middle of a narrow map
        assert measured_height(model, field, wide) == height(field)


@pytest.mark.parametrize("name", list_models("*_mini"))
def test_closed_form_and_measurement_agree_on_every_mini(name):
    check_model(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_closed_form_and_measurement_agree_on_every_full_model(name):
    check_model(name)


@pytest.mark.parametrize("name", FULL)
def test_every_full_model_can_be_traced(name):
    with torch.device("meta"):
        model = create_model(name)
    rest = receptive_field(model, image_level=False)
    assert 100 < rest.size[0] == rest.size[1] < 3000
    assert rest.stride == (1, 1)


LAYERS = st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(0, 2), st.integers(1, 3), st.booleans())


@settings(max_examples=25, deadline=None)
@given(layers=st.lists(LAYERS, min_size=1, max_size=3))
@example(layers=[(2, 2, 1, 2, False), (2, 1, 1, 1, False)])  # a field with holes, at a border
def test_a_chain_follows_the_textbook_recursion_and_is_measured_so(layers):
    modules, size, step, start = [], 1, 1, 0
    for kernel, stride, padding, rate, pool in layers:
        padding = min(padding, kernel // 2)  # what max-pooling allows
        modules.append(
            nn.MaxPool2d(kernel, stride, padding, rate)
            if pool
            else nn.Conv2d(1, 1, kernel, stride, padding, dilation=rate)
        )
        start -= padding * step
        size += (kernel - 1) * rate * step
        step *= stride
    chain = nn.Sequential(*modules)
    field = receptive_field(chain, in_channels=1)
    assert field == ReceptiveField((size, size), (step, step), (start, start))
    side = 2 * size + 6 * step + 40
    assert gradient_receptive_field(chain, (side, side), in_channels=1) == field


ENLARGE = st.sampled_from(
    [
        nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Upsample(size=(100, 140), mode="bilinear", align_corners=False),
        nn.Upsample(size=(97, 129), mode="bilinear", align_corners=True),
        nn.Upsample(size=(90, 130), mode="nearest"),
        nn.Upsample(size=(90, 130), mode="nearest-exact"),
        nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1),
        nn.ConvTranspose2d(2, 2, 3, stride=2, padding=1, output_padding=1),
        nn.ConvTranspose2d(2, 2, 3, stride=1, dilation=2),
        nn.Upsample(size=(20, 30), mode="bilinear", align_corners=False),
    ]
)


@settings(max_examples=60, deadline=None)
@given(enlarge=ENLARGE, row=st.floats(0.3, 0.7), column=st.floats(0.3, 0.7))
def test_the_field_behind_an_enlargement_is_exact_at_the_position_that_is_asked_for(enlarge, row, column):
    module = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1), enlarge, nn.Conv2d(2, 1, (3, 1)))
    size = (96, 128)
    shape = module(torch.zeros(1, 1, *size)).shape
    position = (int(row * shape[2]), int(column * shape[3]))
    closed = receptive_field(module, size, position=position)
    measured = gradient_receptive_field(module, size, position=position)
    for axis in (0, 1):
        assert closed.size[axis] == measured.size[axis]
        first = [field.offset[axis] + field.stride[axis] * position[axis] for field in (closed, measured)]
        assert first[0] == pytest.approx(first[1])


def test_bilinear_enlargement_by_16_adds_one_coarse_step_to_the_field():
    coarse = nn.Conv2d(1, 1, 3, stride=16, padding=1)
    enlarged = nn.Sequential(coarse, nn.Upsample(scale_factor=16, mode="bilinear"))
    assert receptive_field(coarse).size == (3, 3)
    for position, offset in (
        (128, -17),
        (135, -17 - 7),
        (136, -17 + 8),
    ):  # between two coarse positions, and the next two
        field = receptive_field(enlarged, position=(position, position))
        assert field == ReceptiveField((19, 19), (1, 1), (offset, offset))


def test_the_two_axes_are_independent():
    module = nn.Conv2d(1, 1, (3, 5), stride=(1, 2), padding=(0, 3), dilation=(4, 1))
    field = ReceptiveField((9, 5), (1, 2), (0, -3))
    assert receptive_field(module) == field
    assert gradient_receptive_field(module, (40, 60)) == field


@pytest.mark.parametrize("merge", [Branches, Sum])
def test_branches_unite(merge):
    """Fields -1..1, -6..6 with holes, and 3..3: the smallest interval that holds all."""
    near, far = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=6, dilation=6)
    shifted = nn.Sequential(nn.ZeroPad2d((0, 9, 0, 9)), Function(lambda x: x[:, :, 9:, 9:]))
    module = merge(near, far, shifted)
    field = ReceptiveField((16, 16), (1, 1), (-6, -6))
    assert receptive_field(module) == field
    assert gradient_receptive_field(module, (64, 64)) == field


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: x.mean(dim=(2, 3), keepdim=True).expand_as(x),
        lambda x: F.interpolate(F.adaptive_avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear"),
        lambda x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)),
        lambda x: x.softmax(dim=-1).softmax(dim=-2),
        lambda x: F.group_norm(x, 1),
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    ],
    ids=["mean", "bins", "squeeze-and-excite", "softmax", "group norm", "classifier"],
)
def test_what_pools_the_image_sees_all_of_it(pool):
    assert receptive_field(Function(pool)).size == (math.inf, math.inf)


def test_a_mean_over_the_rows_sees_a_whole_column():
    module = nn.Sequential(nn.Conv2d(1, 1, 3), Function(lambda x: x - x.mean(dim=2, keepdim=True)))
    assert receptive_field(module).size == (math.inf, 3)
    assert gradient_receptive_field(module, (40, 40)).size == (math.inf, 3)


def test_leaving_out_the_image_level_gives_the_model_without_image_pooling():
    with torch.device("meta"):
        pooled, plain = (create_model("deeplabv3plus_resnet50", image_pooling=choice) for choice in (True, False))
    assert math.isinf(receptive_field(pooled).size[0])
    assert receptive_field(pooled, image_level=False) == receptive_field(plain)


def test_the_field_does_not_depend_on_the_image_where_sizes_are_multiples_of_the_strides():
    with torch.device("meta"):
        model = create_model("deeplabv3plus_mini", image_pooling=False)
    assert receptive_field(model, (128, 256)) == receptive_field(model, (512, 64))


def test_the_output_can_be_chosen_where_there_are_several():
    with torch.device("meta"):
        trunk, model = MiniTrunk(plan_dilation(16)), create_model("fcn8s_mini")
    steps = [receptive_field(trunk, output=stage).stride[0] for stage in range(4)]
    assert steps == [4, 8, 16, 16]
    assert receptive_field(trunk) == receptive_field(trunk, output=3)
    assert receptive_field(model).stride == (1, 1)


# the table and the command --------------------------------------------------------------------------------------


def test_the_table_lists_the_layers_with_the_field_behind_each():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 7, stride=2, padding=3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, (1, 3), padding=(0, 6), dilation=6),
        nn.Upsample(scale_factor=4, mode="bilinear"),
    )
    table = layer_table(module, (64, 128))
    assert str(table).splitlines() == [
        "layer                  kernel  stride  rate        map        field    step",
        "0                           7       2     1      32x64            7       2",
        "max_pool2d                  3       2     1      16x32           11       4",
        "5                         1x3       1     6      16x32        11x59       4",
        "upsample_bilinear2d              0.25           64x128        15x63       1",
        "output                                          64x128        15x63       1",
    ]
    assert table.rows[-1].field == receptive_field(module, (64, 128))


def test_the_command_prints_the_table(capsys):
    assert cli.main(["receptive-field", "fcn32s_mini"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "kernel", "stride", "rate", "map", "field", "step"]
    with torch.device("meta"):
        size = receptive_field(create_model("fcn32s_mini")).size[0]
    assert lines[-1].split() == ["output", "256x256", str(size), "1"]
    assert cli.main(["receptive-field", "deeplabv3plus_mini", "--output-stride", "8", "--size", "64", "96"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["output", "64x96", "inf", "1"]
    assert cli.main(["receptive-field", "deeplabv3_minni"]) == 2
    assert "did you mean deeplabv3_mini" in capsys.readouterr().err


def test_the_package_exports_the_function():
    assert deeplab_lesson.receptive_field is receptive_field
    assert deeplab_lesson.gradient_receptive_field is gradient_receptive_field


# what may go wrong ----------------------------------------------------------------------------------------------


def test_the_module_is_left_as_it_was():
    model = create_model("deeplabv1_mini", 3).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    receptive_field(model)
    gradient_receptive_field(model, (576, 64))
    assert all(layer.training for layer in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_an_operation_without_a_rule_is_named():
    with pytest.raises(ValueError, match=r"no rule for aten\.(flip|roll)\.default.*knows convolution"):
        receptive_field(Function(lambda x: x.flip(3)))


def test_an_output_that_sees_no_pixel_is_refused():
    with pytest.raises(ValueError, match="does not depend on the image"):
        receptive_field(Function(lambda x: torch.ones(1, 1, 4, 4)))
    with pytest.raises(ValueError, match="does not depend on the image but by its mean"):
        receptive_field(Function(lambda x: x.mean(dim=(2, 3), keepdim=True)), image_level=False)


def test_a_field_that_reaches_the_border_is_measured_as_endless():
    module = nn.Conv2d(1, 1, 9, padding=4)
    assert gradient_receptive_field(module, (9, 20)).size == (math.inf, 9)


def test_a_position_that_reads_only_padding_is_refused():
    with pytest.raises(ValueError, match="reads nothing of the 5x5 image, only padding"):
        gradient_receptive_field(nn.Conv2d(1, 1, 2, padding=4, dilation=8), (5, 5))


def test_weights_that_are_no_numbers_are_no_obstacle_but_a_function_that_gives_none_is():
    broken = nn.Conv2d(1, 1, 3)
    nn.init.constant_(broken.weight, math.nan)
    assert gradient_receptive_field(broken, (20, 20)).size == (3, 3)
    with pytest.raises(ValueError, match="gradient is not finite"):
        gradient_receptive_field(Function(lambda x: (x - x).sqrt()), (8, 8))


def test_an_image_without_room_to_move_the_field_is_refused():
    with pytest.raises(ValueError, match="fits into the 11x11 image but cannot move in it: take a larger"):
        gradient_receptive_field(nn.Conv2d(1, 1, 9, stride=2, padding=1), (11, 11), position=(1, 1))
