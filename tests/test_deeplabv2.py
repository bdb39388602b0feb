"""DeepLab v2: scores of several rates summed, on both trunks; max fusion over input scales."""

import pytest
import torch
from few_steps import CLASSES, losses_of_steps, parameters_without_finite_gradient, shapes_on_meta
from torch import nn
from torch.nn import functional as F

from deeplab_lesson import create_model
from deeplab_lesson.layers import resize_features
from deeplab_lesson.models.deeplabv2 import RATES

OPTIONS = [{}, {"head": "largefov"}, {"head": "aspp_s"}, {"multi_scale_inputs": True}]


def on_meta(name: str, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **options)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# counts and shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("deeplabv2_vgg16", {}, 37_877_652),
        ("deeplabv2_vgg16", {"head": "aspp_s", "multi_scale_inputs": True}, 37_877_652),
        ("deeplabv2_vgg16", {"head": "largefov"}, 20_505_429),  # v1's LargeFOV
        ("deeplabv2_resnet101", {}, 44_048_532),
        ("deeplabv2_resnet101", {"head": "largefov"}, 42_887_253),
        ("deeplabv2_resnet101", {"output_stride": 16}, 44_048_532),
        ("deeplabv2_mini", {}, 574_780),
    ],
)
def test_parameter_count_at_21_classes(name, options, expected):
    assert sum(parameter.numel() for parameter in on_meta(name, **options).parameters()) == expected


@pytest.mark.parametrize(("name", "channels"), [("deeplabv2_resnet101", 2048), ("deeplabv2_vgg16", 512)])
def test_maps_have_the_shapes_that_the_comments_state(name, channels):
    model = on_meta(name, multi_scale_inputs=True)
    seen = shapes_on_meta(model, ["backbone", "aspp", *(f"aspp.branches.{i}" for i in range(4))], (321, 321))
    deepest = seen["backbone"][len(model.backbone.channels) - 1 :: len(model.backbone.channels)]
    assert deepest == [(channels, 41, 41), (channels, 31, 31), (channels, 21, 21)]  # of 321, 241 and 161 pixels
    assert seen["aspp"] == [(21, 41, 41), (21, 31, 31), (21, 21, 21)]
    for branch in range(4):
        assert seen[f"aspp.branches.{branch}"] == seen["aspp"]
    assert seen["out"] == [(21, 321, 321)]


@pytest.mark.parametrize("size", [(33, 33), (65, 97), (66, 40)])
@pytest.mark.parametrize("name", ["deeplabv2_vgg16", "deeplabv2_resnet101", "deeplabv2_mini"])
def test_logits_have_the_size_of_the_image(name, size):
    for options in OPTIONS:
        model = on_meta(name, num_classes=5, **options).eval()
        assert model(torch.empty(2, 3, *size, device="meta")).shape == (2, 5, *size)


# the pyramid ----------------------------------------------------------------------------------------------------


def rates_of(model: nn.Module) -> list[tuple[int, int]]:
    return [
        layer.dilation for layer in model.aspp.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] == 3
    ]


@pytest.mark.parametrize("name", ["deeplabv2_vgg16", "deeplabv2_resnet101"])
@pytest.mark.parametrize(
    ("head", "rates"), [("largefov", (12,)), ("aspp_s", (2, 4, 8, 12)), ("aspp_l", (6, 12, 18, 24))]
)
def test_heads_have_the_papers_rates_at_output_stride_8_and_half_of_them_at_16(name, head, rates):
    assert RATES[head] == rates
    assert rates_of(on_meta(name, head=head)) == [(rate, rate) for rate in rates]
    assert rates_of(on_meta(name, head=head, output_stride=16)) == [(rate // 2, rate // 2) for rate in rates]


def test_trunk_stands_at_output_stride_8():
    seen = shapes_on_meta(on_meta("deeplabv2_resnet101"), ["backbone"], (321, 321))["backbone"]
    assert seen == [(256, 81, 81), (512, 41, 41), (1024, 41, 41), (2048, 41, 41)]


def test_scores_of_resnets_branches_are_summed():
    torch.manual_seed(0)
    model = create_model("deeplabv2_mini", 5).eval()
    features = noise(1, 96, 16, 17)
    want = 0
    for branch, rate in zip(model.aspp.branches, (2, 4, 6, 8), strict=True):
        padded = F.pad(features.double(), (rate,) * 4)
        for row in range(3):  # the nine taps of an atrous 3x3, written out
            for column in range(3):
                window = padded[:, :, row * rate : row * rate + 16, column * rate : column * rate + 17]
                want = want + torch.einsum("nchw,oc->nohw", window, branch.weight[:, :, row, column].double())
        want = want + branch.bias.double()[:, None, None]
    torch.testing.assert_close(model.aspp(features).double(), want, rtol=1e-4, atol=1e-5)


def test_v2_on_vgg16_with_one_branch_is_v1_largefov():
    torch.manual_seed(0)
    v1 = create_model("deeplabv1_largefov", 4).eval()
    v2 = create_model("deeplabv2_vgg16", 4, head="largefov").eval()
    names = {"classifier.": "aspp.branches.0.0.", "fc8.": "aspp.branches.0.1.", "backbone.": "backbone."}
    weights = {}
    for key, value in v1.state_dict().items():
        prefix = next(prefix for prefix in names if key.startswith(prefix))
        weights[names[prefix] + key.removeprefix(prefix)] = value
    v2.load_state_dict(weights)
    images = noise(1, 3, 65, 49)
    with torch.no_grad():
        want = v1(images)
        assert want.std() > 1e-3
        torch.testing.assert_close(v2(images), want)


def test_every_branch_on_vgg16_has_fully_connected_layers_of_its_own():
    torch.manual_seed(0)
    model = create_model("deeplabv2_vgg16", 4).eval()
    features = noise(1, 512, 9, 9).relu()
    with torch.no_grad():
        total = model.aspp(features)
        alone = [branch(features) for branch in model.aspp.branches]
        torch.testing.assert_close(total, alone[0] + alone[1] + alone[2] + alone[3])
        model.aspp.branches[2][0].fc6.weight.zero_()
        model.aspp.branches[2][0].fc7.weight.zero_()
        without = model.aspp(features)
    torch.testing.assert_close(total - without, alone[2], rtol=1e-4, atol=1e-5)
    assert alone[2].std() > 1e-3


# several input scales -------------------------------------------------------------------------------------------


def test_scales_share_the_network_and_the_largest_score_of_each_pixel_wins():
    torch.manual_seed(0)
    several = create_model("deeplabv2_mini", 5, multi_scale_inputs=True).eval()
    single = create_model("deeplabv2_mini", 5).eval()
    single.load_state_dict(several.state_dict())
    images = noise(2, 3, 64, 96)
    with torch.no_grad():
        heads = several.forward_heads(images)
        assert list(heads) == ["out", "scale_1", "scale_0.75", "scale_0.5"]
        for scale, size in ((1, (64, 96)), (0.75, (48, 72)), (0.5, (32, 48))):
            features = single.backbone(resize_features(images, size))[-1]
            want = resize_features(single.aspp(features), (64, 96))
            torch.testing.assert_close(heads[f"scale_{scale}"], want)
        torch.testing.assert_close(heads["scale_1"], single(images))
        stacked = torch.stack([heads["scale_1"], heads["scale_0.75"], heads["scale_0.5"]])
        torch.testing.assert_close(heads["out"], stacked.max(dim=0).values)
        assert stacked.argmax(dim=0).unique().tolist() == [0, 1, 2], "each scale wins somewhere"
    assert list(single.forward_heads(images)) == ["out"]


# learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS)
def test_every_parameter_gets_a_finite_gradient(options):
    torch.manual_seed(0)
    model = create_model("deeplabv2_mini", 5, **options)
    assert parameters_without_finite_gradient(model, noise(2, 3, 64, 64)) == []


def test_every_parameter_of_the_vgg16_model_gets_a_finite_gradient():
    torch.manual_seed(0)
    model = create_model("deeplabv2_vgg16", 5)  # 49 pixels are a map of 7x7: the outer taps of rates 12 to 24 miss it
    assert parameters_without_finite_gradient(model, noise(1, 3, 49, 49)) == []


@pytest.mark.parametrize("options", [{}, {"multi_scale_inputs": True}])
def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode(options):
    torch.manual_seed(0)
    model = create_model("deeplabv2_mini", 5, **options).eval()
    images = noise(3, 3, 65, 65)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", OPTIONS)
def test_thirty_steps_on_four_scenes_halve_the_loss(options):
    torch.manual_seed(0)
    losses = losses_of_steps(create_model("deeplabv2_mini", CLASSES, **options))
    assert losses[-1] < losses[0] / 2


# weights and bad input ------------------------------------------------------------------------------------------


def test_imagenet_weights_reach_trunk_and_every_branch(monkeypatch):
    from torchvision.models import vgg16

    torch.manual_seed(3)
    weights = vgg16(weights=None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: weights)
    model = create_model("deeplabv2_vgg16", pretrained_backbone=True)
    torch.testing.assert_close(model.backbone.conv1[0].weight, weights["features.0.weight"])
    torch.testing.assert_close(model.backbone.conv5[4].weight, weights["features.28.weight"])
    want = weights["classifier.0.weight"].reshape(4096, 512, 7, 7)[::4, :, ::3, ::3]
    for branch in model.aspp.branches:
        torch.testing.assert_close(branch[0].fc6.weight, want)


@pytest.mark.parametrize(
    ("name", "layers"),
    [("deeplabv2_vgg16", [f"aspp.branches.{i}.1" for i in range(4)]), ("deeplabv2_resnet101", ["aspp"])],
)
def test_head_parameters_are_those_without_imagenet_weights(name, layers):
    model = on_meta(name)
    want = {id(parameter) for layer in layers for parameter in model.get_submodule(layer).parameters()}
    assert {id(parameter) for parameter in model.head_parameters()} == want


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplabv2_vgg16", {"head": "aspp"}, r"head='aspp': allowed are largefov, aspp_s, aspp_l"),
        ("deeplabv2_mini", {"head": None}, r"head=None: allowed are largefov, aspp_s, aspp_l"),
        ("deeplabv2_resnet101", {"output_stride": 12}, r"output_stride=12 is not possible: .*allow 4, 8, 16, 32"),
        ("deeplabv2_vgg16", {"output_stride": 64}, r"output_stride=64 is not possible: .*allow 2, 4, 8, 16, 32"),
        ("deeplabv2_mini", {"pretrained_backbone": True}, r"no ImageNet weights for the mini.*deeplabv2_resnet101"),
    ],
)
def test_impossible_options_are_refused_with_the_possible_ones(name, options, message):
    with pytest.raises(ValueError, match=message):
        on_meta(name, **options)


def test_pictures_below_33_pixels_are_refused():
    with pytest.raises(ValueError, match=r"33x32.*at least 33"):
        on_meta("deeplabv2_mini", multi_scale_inputs=True)(torch.zeros(1, 3, 33, 32))


def test_model_can_be_built_again_from_its_spec():
    model = on_meta("deeplabv2_mini", num_classes=7, head="aspp_s", multi_scale_inputs=True, output_stride=16)
    again = on_meta(**model.spec)
    assert str(again) == str(model)
    assert again.multi_scale_inputs
