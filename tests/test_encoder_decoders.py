"""U-Net and SegNet: as deep a decoder as an encoder, by copied maps and by remembered positions."""

import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from few_steps import CLASSES, losses_of_steps, parameters_without_finite_gradient, shapes_on_meta
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deeplab_lesson import create_model, plan_dilation
from deeplab_lesson.backbones import MiniTrunk
from deeplab_lesson.models.segnet import PoolingEncoder
from deeplab_lesson.models.unet import check_fits_valid, crop_middle

MINIS = ["unet_mini", "segnet_mini"]


def build(name: str, num_classes: int = 21, *, meta: bool = False, **options: object) -> nn.Module:
    with torch.device("meta" if meta else "cpu"):
        return create_model(name, num_classes, **options)


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def loud(model: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode, with BatchNorm statistics that are not the defaults."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(0.2 * torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
    return model.eval()


# both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "num_classes", "options", "count"),
    [
        ("unet", 21, {}, 31_033_045),
        ("unet", 2, {}, 31_031_810),
        ("unet", 2, {"padding": "valid"}, 31_031_810),
        ("unet", 21, {"batch_norm": True}, 31_033_045 + 2 * (64 + 128 + 256 + 512) * 2 + 2 * 1024),
        ("unet_mini", 21, {}, 774_349),
        ("segnet_vgg16", 21, {}, 29_455_125),
        ("segnet_mini", 21, {}, 642_301),
    ],
)
def test_parameter_count(name, num_classes, options, count):
    assert size_of(build(name, num_classes, meta=True, **options)) == count


@pytest.mark.parametrize("name", MINIS)
def test_mini_learns_four_pictures_in_thirty_steps(name):
    torch.manual_seed(0)
    losses = losses_of_steps(create_model(name, CLASSES))
    assert losses[-1] < losses[0] / 2, losses


@pytest.mark.parametrize("name", [*MINIS, "unet"])
@pytest.mark.parametrize("size", [(33, 33), (65, 97), (64, 100)])
def test_logits_have_the_size_of_the_image(name, size):
    with torch.no_grad():
        assert build(name, 3, meta=True).eval()(torch.empty(2, 3, *size, device="meta")).shape == (2, 3, *size)
    if name in MINIS:
        with torch.no_grad():
            logits = build(name, 3).eval()(torch.randn(2, 3, *size))
        assert logits.shape == (2, 3, *size)
        assert logits.isfinite().all()
        assert logits.std() > 0


@pytest.mark.parametrize(
    ("name", "options"), [("unet_mini", {}), ("unet_mini", {"batch_norm": True}), ("segnet_mini", {})]
)
def test_every_parameter_gets_a_finite_gradient(name, options):
    torch.manual_seed(0)
    bare = parameters_without_finite_gradient(create_model(name, 5, **options), torch.randn(2, 3, 96, 64))
    assert bare == []


@pytest.mark.parametrize("name", MINIS)
def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode(name):
    model = loud(create_model(name, 5))
    images = torch.randn(3, 3, 65, 47)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MINIS)
def test_channels_last_changes_nothing(name):
    model = loud(create_model(name, 5))
    images = torch.randn(2, 3, 65, 47)
    with torch.no_grad():
        want = model(images)
        got = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [*MINIS, "unet"])
def test_images_that_no_model_can_take_are_refused(name):
    model = build(name, 5, meta=True)
    with pytest.raises(ValueError, match=r"32x64.*at least 33"):
        model(torch.zeros(1, 3, 32, 64, device="meta"))
    with pytest.raises(ValueError, match=r"allowed is \[N, 3, H, W\]"):
        model(torch.zeros(3, 64, 64, device="meta"))


@pytest.mark.parametrize(("name", "only"), [("unet", 16), ("unet_mini", 32), ("segnet_vgg16", 32), ("segnet_mini", 32)])
def test_another_output_stride_is_refused_and_the_possible_one_named(name, only):
    with pytest.raises(ValueError, match=rf"output_stride=8 is not possible: .*one by one, which allows {only}"):
        build(name, meta=True, output_stride=8)
    build(name, meta=True, output_stride=only)


@pytest.mark.parametrize("name", [*MINIS, "unet"])
def test_systems_without_imagenet_weights_say_so(name):
    with pytest.raises(ValueError, match=r"no ImageNet weights for .*vgg16.*pretrained_backbone=False"):
        create_model(name, pretrained_backbone=True)


# U-Net ----------------------------------------------------------------------------------------------------------


def test_published_unet_has_the_shapes_of_figure_1():
    model = build("unet", 2, meta=True, padding="valid")
    seen = shapes_on_meta(
        model, [f"{part}.{i}" for part, n in (("contracting", 5), ("expanding", 4)) for i in range(n)], (572, 572)
    )
    assert [seen[f"contracting.{i}"][0] for i in range(5)] == [
        (64, 568, 568), (128, 280, 280), (256, 136, 136), (512, 64, 64), (1024, 28, 28),
    ]  # fmt: skip
    assert [seen[f"expanding.{i}"][0] for i in range(4)] == [
        (512, 52, 52), (256, 100, 100), (128, 196, 196), (64, 388, 388),
    ]  # fmt: skip
    assert seen["out"] == [(2, 388, 388)]


def test_lowest_expanding_step_has_the_shapes_that_its_comments_state():
    step = build("unet", meta=True, padding="valid").expanding[0]
    enlarged = step.up(torch.empty(1, 1024, 28, 28, device="meta"))
    copied = crop_middle(torch.empty(1, 512, 64, 64, device="meta"), enlarged)
    assert enlarged.shape == copied.shape == (1, 512, 56, 56)
    assert step.convolutions(torch.cat([copied, enlarged], 1)).shape == (1, 512, 52, 52)


def test_unet_has_twenty_three_convolutions_of_the_published_sizes():
    kernels = [
        (type(layer).__name__, layer.kernel_size, layer.stride)
        for layer in build("unet", meta=True).modules()
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    assert len(kernels) == 23
    assert kernels.count(("Conv2d", (3, 3), (1, 1))) == 18
    assert kernels.count(("ConvTranspose2d", (2, 2), (2, 2))) == 4
    assert kernels.count(("Conv2d", (1, 1), (1, 1))) == 1
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in build("unet", meta=True).modules())


def test_valid_and_padded_unet_agree_where_no_padding_is_read():
    """The padded network, on an image around the valid one's, with the same 2x2 windows: 2 pixels, modulo 16."""
    torch.manual_seed(0)
    valid = create_model("unet", 3, padding="valid").eval()
    same = create_model("unet", 3).eval()
    same.load_state_dict(valid.state_dict())
    image = torch.randn(1, 3, 192, 192)
    with torch.no_grad():
        want = valid(image[:, :, 2:190, 2:190])
        got = same(image)[:, :, 94:98, 94:98]
    assert want.shape == (1, 3, 4, 4)
    assert want.std() > 0.01
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["unet", "unet_mini"])
def test_other_sizes_are_those_of_the_image_with_zeros_below_and_right_cropped(name):
    torch.manual_seed(0)
    model = loud(create_model(name, 3))
    image = torch.randn(1, 3, 47, 65)
    rest = -47 % 32, -65 % 32
    with torch.no_grad():
        whole = model(F.pad(image, (0, rest[1], 0, rest[0])))
        if name == "unet":  # its own multiple is 16
            whole = model(F.pad(image, (0, -65 % 16, 0, -47 % 16)))
        torch.testing.assert_close(model(image), whole[:, :, :47, :65])


def valid_output(side: int) -> int:
    """The logits' side, or 0 where a pooling would meet an odd side or nothing is left."""
    for _ in range(4):
        side -= 4
        if side <= 0 or side % 2:
            return 0
        side //= 2
    side -= 4
    for _ in range(4):
        side = 2 * side - 4
    return max(side, 0)


@settings(max_examples=200, deadline=None)
@given(height=st.integers(33, 700), width=st.integers(33, 700))
def test_valid_padding_takes_the_sizes_that_fit_and_names_the_nearest_of_the_others(height, width):
    images = torch.empty(1, 3, height, width, device="meta")
    if valid_output(height) and valid_output(width):
        check_fits_valid(images)
        return
    with pytest.raises(ValueError, match=f"images are {height}x{width}.*padding='same'") as error:
        check_fits_valid(images)
    found = re.search(r"the nearest are (.*) for the height and (.*) for the width", str(error.value))
    for side, text in zip((height, width), found.groups(), strict=True):
        fitting = [s for s in range(33, 800) if valid_output(s)]
        below, above = [s for s in fitting if s <= side], [s for s in fitting if s >= side]
        nearest = {*below[-1:], *above[:1]}
        assert {int(number) for number in text.split(" or ")} == nearest


def test_size_that_does_not_fit_is_refused_by_the_model():
    model = build("unet", 2, meta=True, padding="valid")
    with pytest.raises(ValueError, match=r"512x572.*nearest are 508 or 524 for the height and 572 for the width"):
        model(torch.empty(1, 3, 512, 572, device="meta"))
    assert model(torch.empty(1, 3, 188, 204, device="meta")).shape == (1, 2, 4, 20)


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match=r"padding='reflect': allowed are 'same'.*'valid'"):
        create_model("unet", padding="reflect")


def test_copied_map_is_cropped_in_its_middle():
    skip = torch.arange(64.0).view(1, 1, 8, 8)
    assert crop_middle(skip, torch.empty(1, 1, 4, 2))[0, 0, 0].tolist() == [19.0, 20.0]
    assert torch.equal(crop_middle(skip, skip), skip)


def test_unet_starts_with_gaussian_weights_of_variance_two_over_incoming_connections():
    model = build("unet")
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            incoming = layer.in_channels * (layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1)
            tolerance = 5 / (2 * layer.weight.numel()) ** 0.5  # five standard errors
            assert layer.weight.std().item() == pytest.approx((2 / incoming) ** 0.5, rel=tolerance)
            assert not layer.bias.any()


def test_dropout_acts_on_the_two_lowest_levels_in_training_only():
    model = build("unet", 2)
    image = torch.randn(1, 3, 33, 33)
    calls = []
    model.dropout.register_forward_hook(lambda module, args, out: calls.append(args[0].shape[1]))
    with torch.no_grad():
        assert not torch.equal(model.train()(image), model(image))
        assert torch.equal(model.eval()(image), model(image))
    assert calls == [512, 1024] * 4
    assert model.dropout.p == 0.5


def test_all_of_unet_starts_from_nothing():
    model = build("unet", meta=True)
    assert len(model.head_parameters()) == len(list(model.parameters()))


def test_unet_mini_has_the_shapes_that_its_comments_state():
    seen = shapes_on_meta(
        build("unet_mini", meta=True), ["backbone", *(f"expanding.{i}" for i in range(3))], (128, 128)
    )
    assert seen["backbone"] == [(24, 32, 32), (48, 16, 16), (64, 8, 8), (96, 4, 4)]
    assert [seen[f"expanding.{i}"][0] for i in range(3)] == [(64, 8, 8), (48, 16, 16), (48, 32, 32)]
    assert seen["out"] == [(21, 128, 128)]


# SegNet ---------------------------------------------------------------------------------------------------------


def test_segnet_count_follows_from_vggs_channels_read_forwards_and_backwards():
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    forwards = sum(9 * i * o + o + 2 * o for i, o in pairwise(channels))
    mirror = channels[:0:-1]
    backwards = sum(9 * i * o + o + 2 * o for i, o in pairwise(mirror))
    classifier = 9 * 64 * 21 + 21
    model = build("segnet_vgg16", meta=True)
    assert size_of(model.backbone) == forwards
    assert size_of(model) == forwards + backwards + classifier
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 26


def test_segnet_has_the_shapes_of_the_authors_camvid_network():
    """360x480: their network says upsample_h 45, 23 and 23 rows become 12, so sizes are rounded up."""
    model = build("segnet_vgg16", 11, meta=True)
    steps = [f"decoder.{i}" for i in range(5)]
    seen = shapes_on_meta(model, ["backbone.pool", "unpool", *steps], (360, 480))
    assert seen["backbone.pool"][::2] == [  # each call gives a map and its indices
        (64, 180, 240), (128, 90, 120), (256, 45, 60), (512, 23, 30), (512, 12, 15),
    ]  # fmt: skip
    assert seen["unpool"] == [(512, 23, 30), (512, 45, 60), (256, 90, 120), (128, 180, 240), (64, 360, 480)]
    assert [seen[step][0] for step in steps] == [
        (512, 23, 30), (256, 45, 60), (128, 90, 120), (64, 180, 240), (64, 360, 480),
    ]  # fmt: skip
    assert seen["out"] == [(11, 360, 480)]


def vgg_features() -> nn.Sequential:
    from torchvision.models.vgg import cfgs, make_layers

    return make_layers(cfgs["D"], batch_norm=True)


def test_segnets_encoder_is_torchvisions_vgg16_with_pretrained_weights(monkeypatch):
    theirs = loud(vgg_features())
    asked = []

    def classifier(name, title, *, pretrained):
        asked.append((name, pretrained))
        module = nn.Module()
        module.features = theirs
        return module

    monkeypatch.setattr("deeplab_lesson.models.segnet.torchvision_classifier", classifier)
    model = create_model("segnet_vgg16", 5, pretrained_backbone=True).eval()
    assert asked == [("vgg16_bn", True)]
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(image)[0], theirs(image))
    assert len(model.head_parameters()) == len(list(model.parameters())) - len(list(theirs.parameters()))


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (5, 8)])
def test_unpooling_puts_every_maximum_back_where_it_was_and_zero_elsewhere(size):
    model = build("segnet_mini", 2)
    image = np.random.default_rng(0).permutation(size[0] * size[1]).reshape(size) + 1.0  # no two are equal
    want = np.zeros(size)
    for top in range(0, size[0], 2):
        for left in range(0, size[1], 2):
            window = image[top : top + 2, left : left + 2]
            row, column = np.unravel_index(window.argmax(), window.shape)
            want[top + row, left + column] = window.max()
    pooled, indices = model.backbone.pool(torch.tensor(image)[None, None])
    got = model.unpool(pooled, indices, output_size=size)
    np.testing.assert_array_equal(got[0, 0].numpy(), want)
    if not (size[0] % 2 or size[1] % 2):
        assert (want != 0).mean() == 0.25


@pytest.mark.parametrize("name", ["segnet_vgg16", "segnet_mini"])
def test_nothing_is_learned_in_segnets_upsampling(name):
    model = build(name, meta=True)
    assert size_of(model.unpool) == 0
    assert not any(isinstance(layer, nn.ConvTranspose2d | nn.Upsample) for layer in model.modules())


def test_decoder_unpools_with_the_encoders_own_indices_in_reverse():
    model = build("segnet_mini", 5).eval()
    stored, used = [], []
    model.backbone.pool.register_forward_hook(lambda module, args, out: stored.append(out[1]))
    model.unpool.register_forward_pre_hook(lambda module, args: used.append(args[1]))
    with torch.no_grad():
        model(torch.randn(1, 3, 65, 47))
    assert len(used) == 5
    assert all(mine is theirs for mine, theirs in zip(used, reversed(stored), strict=True))


def test_segnet_mini_is_the_mini_trunk_with_pooling_for_strides():
    encoder = build("segnet_mini").backbone
    assert isinstance(encoder, PoolingEncoder)
    assert size_of(encoder) == size_of(MiniTrunk(plan_dilation(32)))
    assert {layer.stride for layer in encoder.modules() if isinstance(layer, nn.Conv2d)} == {(1, 1)}
    with torch.no_grad():
        assert encoder.eval()(torch.zeros(1, 3, 64, 96))[0].shape == (1, 96, 2, 3)
