"""VGG-16 made dense, FCN and DeepLab v1: weight surgery, skips, rates and fields, exact to the papers."""

import copy

import pytest
import torch
from few_steps import CLASSES, losses_of_steps, parameters_without_finite_gradient, shapes_on_meta
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deeplab_lesson import create_model, list_models, plan_dilation
from deeplab_lesson.backbones import VGG_STRIDES, ConvolutionalClassifier, VGG16Trunk
from deeplab_lesson.layers import convolution_from_linear, resize_features, subsample_kernel
from deeplab_lesson.models.deeplabv1 import VARIANTS
from deeplab_lesson.models.fcn import BilinearUpsampling
from deeplab_lesson.receptive_field import receptive_field

MINIS = [("fcn32s_mini", {}), ("fcn16s_mini", {}), ("fcn8s_mini", {}), ("deeplabv1_mini", {})]
MINIS += [("deeplabv1_mini", {"msc": True})]


def count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vgg16():
    from torchvision.models import vgg16

    torch.manual_seed(3)
    return vgg16(weights=None).eval()


@pytest.fixture
def published(vgg16, monkeypatch):
    """torchvision's download answers with the weights of `vgg16`."""
    weights = vgg16.state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: weights)
    return vgg16


# counts and shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("deeplabv1_7x7", {}, 134_346_581),
        ("deeplabv1_4x4", {}, 65_140_565),
        ("deeplabv1_base", {}, 65_140_565),
        ("deeplabv1_largefov", {}, 20_505_429),
        ("deeplabv1_largefov", {"msc": True}, 21_711_445),
        ("deeplabv1_largefov", {"pools": "caffe"}, 20_505_429),
        ("fcn32s_vgg16", {}, 134_346_581),
        ("fcn16s_vgg16", {}, 134_346_581 + (512 + 1) * 21 + 21 * 21 * 4 * 4),  # pool4's scores, one learned 4x4
        ("fcn8s_vgg16", {}, 134_346_581 + (512 + 1 + 256 + 1) * 21 + 2 * 21 * 21 * 4 * 4),
        ("deeplabv1_mini", {}, 563_005),
        ("deeplabv1_mini", {"msc": True}, 585_517),
        ("fcn32s_mini", {}, 563_005),
        ("fcn16s_mini", {}, 571_426),
        ("fcn8s_mini", {}, 579_511),
    ],
)
def test_parameter_count_at_21_classes(name, options, expected):
    assert count(on_meta(name, **options).parameters()) == expected


def test_vgg16_trunk_has_the_published_14_714_688_parameters():
    with torch.device("meta"):
        trunk = VGG16Trunk(plan_dilation(32, VGG_STRIDES))
    assert count(trunk.parameters()) == 14_714_688


@pytest.mark.parametrize("pools", ["dilated", "undilated", "caffe"])
def test_v1_maps_have_the_shapes_that_the_comments_state(pools):
    model = on_meta("deeplabv1_largefov", msc=True, pools=pools)
    seen = shapes_on_meta(model, ["backbone", "classifier", "msc", "msc.mlps.0", "fc8"], (321, 321))
    assert seen["backbone"] == [(64, 161, 161), (128, 81, 81), (256, 41, 41), (512, 41, 41), (512, 41, 41)]
    assert seen["classifier"] == [(1024, 41, 41)]
    assert seen["msc.mlps.0"] == [(128, 41, 41)]
    assert seen["msc"] == [(640, 41, 41)]
    assert model.fc8.in_channels == 1664
    assert seen["fc8"] == [(21, 41, 41)]
    assert seen["out"] == [(21, 321, 321)]


def test_fcn_maps_have_the_shapes_that_the_comments_state():
    names = ["backbone", "classifier", "score", "double_score", "score_pool4", "double_pool4", "score_pool3", "enlarge"]
    seen = shapes_on_meta(on_meta("fcn8s_vgg16"), names, (500, 500))
    assert seen["backbone"][2:] == [(256, 63, 63), (512, 32, 32), (512, 16, 16)]
    assert seen["classifier"] == [(4096, 16, 16)]
    assert seen["score"] == [(21, 16, 16)]
    assert seen["double_score"] == seen["score_pool4"] == [(21, 32, 32)]
    assert (seen["double_pool4"], seen["score_pool3"]) == ([(21, 64, 64)], [(21, 63, 63)])
    assert seen["enlarge"] == [(21, 504, 504)]
    assert seen["out"] == [(21, 500, 500)]
    assert shapes_on_meta(on_meta("fcn32s_vgg16"), ["enlarge"], (500, 500))["enlarge"] == [(21, 512, 512)]


@pytest.mark.parametrize("size", [(33, 33), (65, 97), (66, 40), (127, 64)])
def test_logits_have_the_size_of_the_image(size):
    names = [name for name in list_models() if name.startswith(("fcn", "deeplabv1"))]
    assert len(names) == 6 + 5
    for name in names:
        for options in [{}, {"msc": True}] if "v1" in name else [{}]:
            assert on_meta(name, num_classes=5, **options).eval()(torch.empty(1, 3, *size, device="meta")).shape == (
                1, 5, *size,
            )  # fmt: skip


@pytest.mark.parametrize("pools", ["dilated", "undilated", "caffe"])
@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
def test_msc_maps_meet_at_every_output_stride_and_odd_size(pools, output_stride):
    for size in [(33, 34), (65, 98), (71, 103)]:
        model = on_meta("deeplabv1_base", msc=True, pools=pools, output_stride=output_stride)
        map_size = tuple(-(-side // output_stride) for side in size)
        assert shapes_on_meta(model, ["fc8"], size)["fc8"] == [(21, *map_size)]


# the trunk ------------------------------------------------------------------------------------------------------


def test_trunk_at_output_stride_32_is_torchvisions(vgg16):
    trunk = VGG16Trunk(plan_dilation(32, VGG_STRIDES)).eval()
    trunk.load_features(vgg16.features)
    images = noise(1, 3, 96, 64)
    with torch.no_grad():
        maps = trunk(images)
        x = images
        for stage, begin, end in zip(maps, (0, 5, 10, 17, 24), (5, 10, 17, 24, 31), strict=True):
            x = vgg16.features[begin:end](x)  # up to the next of torchvision's five poolings
            torch.testing.assert_close(stage, x)


def test_v1_removes_the_strides_of_pool4_and_pool5_and_conv5_takes_rate_2():
    for pools in ("dilated", "undilated", "caffe"):
        trunk = on_meta("deeplabv1_largefov", pools=pools).backbone
        rates = [{layer.dilation for layer in stage if isinstance(layer, nn.Conv2d)} for stage in
                 (trunk.conv1, trunk.conv2, trunk.conv3, trunk.conv4, trunk.conv5)]  # fmt: skip
        assert rates == [{(1, 1)}] * 4 + [{(2, 2)}]
        pooling = [layer for layer in trunk.modules() if isinstance(layer, nn.MaxPool2d)]
        assert [layer.stride for layer in pooling] == [2, 2, 2, 1, 1]
        assert {layer.kernel_size for layer in pooling} == {3 if pools == "caffe" else 2}
        assert [layer.dilation for layer in pooling] == [1, 1, 1, 1, 2 if pools == "dilated" else 1]


def dense_and_strided(output_stride: int, pools: str) -> tuple[torch.Tensor, torch.Tensor]:
    """fc7 of a 7x7 classifier on both networks; the dense one subsampled, from where its first window stands."""
    outputs = []
    for stride in (32, output_stride):
        plan = plan_dilation(stride, VGG_STRIDES, aspp_rates_at_16=[4 / 2])  # 7x7: rate 4 at output stride 8
        torch.manual_seed(5)
        trunk = VGG16Trunk(plan, pools=pools if stride != 32 else "dilated").eval()
        classifier = ConvolutionalClassifier(512, 8, 7, plan.aspp_rates[0]).eval()
        with torch.no_grad():
            outputs.append(classifier(trunk(noise(1, 3, 96, 128))[-1]))
    step = 32 // output_stride
    start = {16: 0, 8: 1, 4: 3}[output_stride]
    return outputs[1][:, :, start::step, start::step], outputs[0]


@pytest.mark.parametrize("output_stride", [16, 8, 4])
def test_dense_vgg16_with_dilated_pools_subsampled_equals_the_strided_one_up_to_fc7(output_stride):
    got, want = dense_and_strided(output_stride, "dilated")
    assert want.shape == (1, 8, 3, 4)
    assert want.std() > 0.01, "the features are alive: equal zeros would prove nothing"
    assert ((got - want).norm() / want.norm()).item() < 1e-5


def test_undilated_2x2_pools_are_another_network():
    got, want = dense_and_strided(8, "undilated")
    assert (got - want).norm() / want.norm() > 0.05


@pytest.mark.parametrize(
    ("pools", "fc6_fields", "trunk_field", "center"),
    [("dilated", (404, 308), 212, 7.5), ("undilated", (396, 300), 204, 3.5), ("caffe", (419, 323), 227, 0.0)],
)
def test_fields_of_7x7_and_4x4_as_built(pools, fc6_fields, trunk_field, center):
    """v1 section 3.2 states 404 and 308. A map position at output stride 8 covers 8 pixels, their middle at 3.5."""
    trunk = on_meta("deeplabv1_7x7", pools=pools).backbone
    field = receptive_field(trunk)
    assert field.size == (trunk_field, trunk_field)
    assert field.offset[0] + (field.size[0] - 1) / 2 == center
    for name, size in zip(("deeplabv1_7x7", "deeplabv1_base"), fc6_fields, strict=True):
        model = on_meta(name, pools=pools)

        class Features(nn.Module):
            def __init__(self, model=model):
                super().__init__()
                self.trunk, self.classifier = model.backbone, model.classifier

            def forward(self, images):
                return self.classifier(self.trunk(images)[-1])

        assert receptive_field(Features()).size == (size, size)


def test_papers_column_counts_the_kernel_alone():
    """Table 2's 224, 128, 224, 224: (k - 1) * rate positions of 8 pixels, and 32 for pool5's cell."""
    fields = {name: (kernel - 1) * rate * 8 + 32 for name, (kernel, rate, _) in VARIANTS.items()}
    assert fields == {"7x7": 224, "base": 128, "4x4": 224, "largefov": 224}
    for name, (kernel, rate, channels) in VARIANTS.items():
        fc6 = on_meta(f"deeplabv1_{name}").classifier.fc6
        assert (fc6.kernel_size, fc6.dilation, fc6.out_channels) == ((kernel, kernel), (rate, rate), channels)


# surgery --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 2**31))
def test_convolution_from_linear_is_the_layer_at_every_window(in_channels, out_channels, size, bias, seed):
    torch.manual_seed(seed)
    linear = nn.Linear(in_channels * size**2, out_channels, bias=bias)
    features = torch.randn(2, in_channels, 6, 5)
    windows = F.unfold(features, size).transpose(1, 2)  # [N, positions, in_channels * size * size]
    want = linear(windows).transpose(1, 2).reshape(2, out_channels, 7 - size, 6 - size)
    torch.testing.assert_close(convolution_from_linear(linear, in_channels, size)(features), want)


def test_surgery_copies_and_leaves_the_source_alone():
    linear = nn.Linear(4 * 9, 3)
    convolution = convolution_from_linear(linear, 4, 3)
    before = copy.deepcopy(linear.weight)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias.zero_()
    torch.testing.assert_close(linear.weight, before)


@pytest.mark.parametrize(("kernel_size", "kept"), [(4, (0, 2, 4, 6)), (3, (0, 3, 6)), (2, (0, 6)), (7, range(7))])
def test_small_kernel_at_its_rate_reads_where_its_weights_stood_in_the_7x7(kernel_size, kept):
    large = nn.Conv2d(4, 8, 7, padding=12, dilation=4)
    small = subsample_kernel(large, kernel_size, out_channels=2)
    step = 6 // (kernel_size - 1)
    small.dilation, small.padding = (4 * step, 4 * step), (12, 12)
    thinned = copy.deepcopy(large)
    with torch.no_grad():
        for row in range(7):
            for column in range(7):
                if row not in kept or column not in kept:
                    thinned.weight[:, :, row, column] = 0
        features = noise(1, 4, 30, 31)
        torch.testing.assert_close(small(features), thinned(features)[:, ::4], rtol=1e-4, atol=1e-5)


def test_fcn_at_224_pixels_is_the_classifier_where_the_7x7_meets_no_padding(published):
    model = create_model("fcn32s_vgg16", pretrained_backbone=True).eval()
    image = noise(1, 3, 224, 224)
    with torch.no_grad():
        features = model.backbone(image)[-1]
        got = model.classifier(features)
        want = published.classifier[:6](published.features(image).flatten(1))
        assert got.shape == (1, 4096, 7, 7)
        assert want.std() > 1e-3
        torch.testing.assert_close(got[:, :, 3, 3], want, rtol=1e-4, atol=1e-5)


def test_largefov_starts_from_every_third_weight_and_every_fourth_channel_of_vgg16(published):
    model = create_model("deeplabv1_largefov", pretrained_backbone=True)
    linear6, linear7 = published.classifier[0], published.classifier[3]
    want6 = linear6.weight.reshape(4096, 512, 7, 7)[::4, :, ::3, ::3]
    torch.testing.assert_close(model.classifier.fc6.weight, want6)
    torch.testing.assert_close(model.classifier.fc6.bias, linear6.bias[::4])
    torch.testing.assert_close(model.classifier.fc7.weight[:, :, 0, 0], linear7.weight[::4, ::4])
    torch.testing.assert_close(model.classifier.fc7.bias, linear7.bias[::4])
    torch.testing.assert_close(model.backbone.conv5[4].weight, published.features[28].weight)


def test_4x4_at_rate_1_keeps_the_maps_size_by_one_more_zero_on_the_bottom_right():
    classifier = ConvolutionalClassifier(3, 5, 4, rate=1).eval()
    features = noise(1, 3, 6, 7)
    padded = F.pad(features, (1, 2, 1, 2))
    want = classifier.fc7(F.conv2d(padded, classifier.fc6.weight, classifier.fc6.bias).relu()).relu()
    torch.testing.assert_close(classifier(features), want)
    even = ConvolutionalClassifier(3, 5, 4, rate=4)
    assert even.fc6.padding == (6, 6)
    assert even(features).shape == (1, 5, 6, 7)


# FCN's way up ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_transposed_convolution_starts_as_bilinear_interpolation_in_the_interior(factor, learned):
    scores = noise(2, 3, 5, 4)
    enlarged = BilinearUpsampling(3, factor, learned=learned)(scores)
    want = resize_features(scores, (5 * factor, 4 * factor))
    assert enlarged.shape == want.shape
    edge = factor // 2
    inside = (..., slice(edge, -edge), slice(edge, -edge))
    torch.testing.assert_close(enlarged[inside], want[inside])
    assert not torch.allclose(enlarged[..., edge - 1, :], want[..., edge - 1, :])


def test_last_enlargement_is_fixed_and_the_inner_ones_are_learned():
    model = create_model("fcn8s_mini", 5)
    learned = {name for name, _ in model.named_parameters()}
    assert {"double_score.weight", "double_pool4.weight"} <= learned
    assert "enlarge.weight" not in learned
    assert "enlarge.weight" in model.state_dict(), "the buffer is saved with the weights"


def set_scores(model: nn.Module, main: bool, pool4: bool, pool3: bool, seed: int = 0) -> None:
    """Draw the score layers' weights from one seed, and set those to zero that are not wanted."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer, wanted in ((model.score, main), (model.score_pool4, pool4), (model.score_pool3, pool3)):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * wanted)
            layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) * wanted)


def test_skips_are_summed_as_scores():
    torch.manual_seed(0)
    model = create_model("fcn8s_mini", 5).eval()
    images = noise(1, 3, 75, 90)
    outputs = {}
    with torch.no_grad():
        for switches in [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
            set_scores(model, *map(bool, switches))
            outputs[switches] = model(images)
            assert outputs[switches].std() > 0.01
    parts = outputs[1, 0, 0] + outputs[0, 1, 0] + outputs[0, 0, 1]
    torch.testing.assert_close(outputs[1, 1, 1], parts, rtol=1e-4, atol=1e-4)


def test_pool3_scores_stand_where_the_image_has_them():
    """With pool3's scores alone, FCN-8s enlarges them by 8 and cuts the corner; nothing is shifted."""
    model = create_model("fcn8s_mini", 5).eval()
    set_scores(model, False, False, True)
    images = noise(1, 3, 75, 90)
    with torch.no_grad():
        pool3 = model.backbone(images)[1]
        want = resize_features(model.score_pool3(pool3), (80, 96))[:, :, 4:70, 4:86]
        torch.testing.assert_close(model(images)[:, :, 4:70, 4:86], want, rtol=1e-4, atol=1e-4)


def test_skip_scores_start_at_zero():
    model = create_model("fcn8s_mini", 5)
    assert not model.score_pool4.weight.any()
    assert not model.score_pool3.weight.any()
    assert model.score.weight.any()


# v1's head ------------------------------------------------------------------------------------------------------


def test_msc_adds_640_channels_to_the_classifier_and_nothing_else():
    torch.manual_seed(0)
    fused = create_model("deeplabv1_largefov", 4, msc=True).eval()
    plain = create_model("deeplabv1_largefov", 4).eval()
    weights = {key: value for key, value in fused.state_dict().items() if not key.startswith("msc.")}
    with torch.no_grad():
        fused.fc8.weight[:, 1024:] = 0
        weights["fc8.weight"] = fused.fc8.weight[:, :1024]
        plain.load_state_dict(weights)
        images = noise(1, 3, 65, 49)
        torch.testing.assert_close(fused(images), plain(images))
        fused.fc8.weight[:, 1024:] = 1
        assert not torch.allclose(fused(images), plain(images))


def test_msc_reads_the_image_and_pool1_to_pool4_but_not_pool5():
    model = on_meta("deeplabv1_largefov", msc=True)
    assert [(mlp[0].in_channels, mlp[0].stride[0]) for mlp in model.msc.mlps] == [
        (3, 8), (64, 4), (128, 2), (256, 1), (512, 1),
    ]  # fmt: skip
    assert {(mlp[0].kernel_size, mlp[2].kernel_size) for mlp in model.msc.mlps} == {((3, 3), (1, 1))}


@pytest.mark.parametrize(("output_stride", "rate"), [(32, 1), (16, 2), (8, 4), (4, 8)])
def test_rate_of_fc6_follows_the_output_stride(output_stride, rate):
    assert on_meta("deeplabv1_7x7", output_stride=output_stride).classifier.fc6.dilation == (rate, rate)


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("deeplabv1_largefov", {"msc": True}, {"fc8", "msc"}),
        ("fcn8s_vgg16", {}, {"score", "score_pool4", "score_pool3", "double_score", "double_pool4"}),
        ("deeplabv1_mini", {}, {"classifier", "fc8"}),
    ],
)
def test_head_parameters_are_those_without_imagenet_weights(name, options, parts):
    model = on_meta(name, **options)
    want = {key for key, _ in model.named_parameters() if key.split(".")[0] in parts}
    head = {id(parameter) for parameter in model.head_parameters()}
    assert {key for key, parameter in model.named_parameters() if id(parameter) in head} == want


# learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), MINIS)
def test_every_parameter_gets_a_finite_gradient(name, options):
    torch.manual_seed(0)
    assert parameters_without_finite_gradient(create_model(name, 5, **options), noise(2, 3, 64, 64)) == []


def test_every_parameter_of_largefov_with_msc_gets_a_finite_gradient():
    torch.manual_seed(0)
    model = create_model("deeplabv1_largefov", 5, msc=True)
    assert parameters_without_finite_gradient(model, noise(1, 3, 49, 33)) == []


@pytest.mark.parametrize(("name", "options"), MINIS)
def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode(name, options):
    torch.manual_seed(0)
    model = create_model(name, 5, **options).eval()
    images = noise(3, 3, 65, 65)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "options"), MINIS)
def test_thirty_steps_on_four_scenes_halve_the_loss(name, options):
    torch.manual_seed(0)
    losses = losses_of_steps(create_model(name, CLASSES, **options))
    assert losses[-1] < losses[0] / 2


# bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fcn8s_vgg16", {"output_stride": 8}, r"output_stride=8 is not possible: an FCN keeps .*allows 32"),
        ("fcn8s_mini", {"output_stride": 16}, r"output_stride=16 is not possible: an FCN keeps .*allows 32"),
        (
            "deeplabv1_4x4",
            {"output_stride": 12},
            r"output_stride=12 is not possible: .*pool5 2\) allow 2, 4, 8, 16, 32",
        ),
        ("deeplabv1_mini", {"output_stride": 0}, r"output_stride=0 is not possible: .*allow 4, 8, 16, 32"),
        ("deeplabv1_base", {"pools": "3x3"}, r"pools='3x3': allowed are dilated, undilated, caffe"),
        ("fcn32s_mini", {"pretrained_backbone": True}, r"no ImageNet weights for the mini.*fcn8s_vgg16"),
        ("deeplabv1_mini", {"pretrained_backbone": True}, r"no ImageNet weights for the mini.*deeplabv1_largefov"),
    ],
)
def test_impossible_options_are_refused_with_the_possible_ones(name, options, message):
    with pytest.raises(ValueError, match=message):
        on_meta(name, **options)


def test_option_of_another_system_is_refused_by_name():
    with pytest.raises(TypeError, match=r"fcn8s_vgg16 has no option msc: allowed are dropout, output_stride, pretr"):
        on_meta("fcn8s_vgg16", msc=True)


@pytest.mark.parametrize("name", ["fcn8s_vgg16", "deeplabv1_7x7"])
def test_pictures_below_33_pixels_are_refused(name):
    with pytest.raises(ValueError, match=r"32x64.*at least 33"):
        on_meta(name)(torch.zeros(1, 3, 32, 64))


def test_linear_layer_of_another_map_is_refused():
    with pytest.raises(ValueError, match=r"has 36 inputs, and a 7x7 kernel on 4 channels reads 196"):
        convolution_from_linear(nn.Linear(36, 2), 4, 7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5,), r"kernel_size=5: even steps through a 7x7 kernel allow 2, 3, 4, 7"),
        ((4, 3), r"3 of 8 channels.*divisors"),
    ],
)
def test_uneven_subsampling_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        subsample_kernel(nn.Conv2d(4, 8, 7), *arguments)


def test_vgg16_weights_that_cannot_be_downloaded_are_said_to_be(monkeypatch):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ConnectionError, match=r"of VGG-16 could not .*file vgg16-397923af.pth into .*checkpoints"):
        create_model("deeplabv1_largefov", pretrained_backbone=True)


def test_model_can_be_built_again_from_its_spec():
    model = on_meta("deeplabv1_4x4", num_classes=7, msc=True, pools="caffe", output_stride=16)
    again = on_meta(**model.spec)
    assert [(k, v.shape) for k, v in model.state_dict().items()] == [
        (k, v.shape) for k, v in again.state_dict().items()
    ]
    assert str(again) == str(model)
