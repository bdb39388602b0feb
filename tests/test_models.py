"""The networks: exact to the papers in shape and size, and dense in the sense of the atrous rule."""

import pytest
import torch
from torch import nn

from deeplab_lesson import create_model, list_models, plan_dilation
from deeplab_lesson.backbones import MiniTrunk, ResNetTrunk
from deeplab_lesson.layers import ASPP, ConvBNReLU
from deeplab_lesson.models.deeplabv3plus import Decoder

ALL = list_models()


def randomize_statistics(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics that are not its defaults, and set eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(0.2 * torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
            layer.weight.data.copy_(0.8 + 0.4 * torch.rand(layer.num_features, generator=generator))
            layer.bias.data.copy_(0.1 * torch.randn(layer.num_features, generator=generator))
    return module.eval()


def build_trunk(kind: str, output_stride: int) -> nn.Module:
    torch.manual_seed(7)  # the same weights for every output stride: the planned rates change no parameter
    plan = plan_dilation(output_stride)
    return MiniTrunk(plan) if kind == "mini" else ResNetTrunk(int(kind), plan)


@pytest.mark.parametrize("kind", ["mini", "18", "50"])
@pytest.mark.parametrize("size", [(128, 160), (129, 97)])
@pytest.mark.parametrize("output_stride", [16, 8, 4])
def test_dense_network_subsampled_equals_strided_network(kind, size, output_stride):
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    strided = randomize_statistics(build_trunk(kind, 32))
    dense = randomize_statistics(build_trunk(kind, output_stride))
    with torch.no_grad():
        want = strided(image)[-1]
        step = 32 // output_stride
        got = dense(image)[-1][:, :, ::step, ::step]
    assert got.shape == want.shape
    assert ((got - want).norm() / want.norm()).item() < 1e-5
    assert want.std() > 0.01, "the features are alive: equal zeros would prove nothing"


def test_dilating_every_convolution_of_a_stage_is_not_the_same_network():
    """What some libraries do; if this passed the test above, that test would have no teeth."""
    image = torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(1))
    strided = randomize_statistics(build_trunk("50", 32))
    dense = randomize_statistics(build_trunk("50", 16))
    first = dense.layer4[0].conv2
    assert first.dilation == (1, 1), "the convolution whose stride was removed still reads the grid before it"
    first.dilation = first.padding = (2, 2)
    with torch.no_grad():
        want, got = strided(image)[-1], dense(image)[-1][:, :, ::2, ::2]
    assert (got - want).norm() / want.norm() > 0.05


def test_resnet50_is_made_dense_exactly_as_torchvision_does():
    """torchvision's own option, for the blocks that it supports, is an independent implementation."""
    from torchvision.models import resnet50

    theirs = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    ours = ResNetTrunk(50, plan_dilation(8))

    def geometry(module: nn.Module) -> list[tuple[str, tuple, tuple, tuple]]:
        return [
            (name, layer.stride, layer.dilation, layer.padding)
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d) and name.startswith("layer") and layer.kernel_size == (3, 3)
        ]

    assert geometry(ours) == geometry(theirs)
    trunk_weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(trunk_weights)
    ours.eval()
    theirs.eval()
    image = torch.randn(1, 3, 65, 97, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        want = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(x))))
        assert ((ours(image)[-1] - want).norm() / want.norm()).item() < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("deeplabv3plus_resnet50", {}, 40_352_181),
        ("deeplabv3plus_resnet101", {}, 59_344_309),
        ("deeplabv3plus_resnet50", {"separable": True}, 26_696_133),
        ("deeplabv3plus_resnet101", {"separable": True}, 45_688_261),
        ("deeplabv3plus_resnet50", {"output_stride": 8}, 40_352_181),
        ("deeplabv3plus_mini", {}, 697_869),
    ],
)
def test_parameter_count_at_21_classes(name, options, count):
    with torch.device("meta"):
        model = create_model(name, 21, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_mini_models_stay_below_a_million_parameters():
    for name in list_models("*_mini"):
        assert sum(p.numel() for p in create_model(name).parameters()) < 1_000_000


def test_trunks_carry_their_channels():
    for kind in ("mini", "18", "50"):
        trunk = build_trunk(kind, 16).eval()
        with torch.no_grad():
            maps = trunk(torch.zeros(1, 3, 64, 64))
        assert tuple(m.shape[1] for m in maps) == trunk.channels
        assert [64 // m.shape[2] for m in maps] == [4, 8, 16, 16]


def test_head_sees_the_shapes_that_its_comments_state():
    """The comments of ASPP, decoder and model, for a 513x513 image, on the real ResNet-50 model."""
    model = create_model("deeplabv3plus_resnet50").eval()
    seen = {}
    hooks = {
        "backbone": model.backbone,
        "aspp": model.aspp,
        "pool": model.aspp.branches[-1].project,
        "reduce": model.decoder.reduce,
        "decoder": model.decoder,
        "classifier": model.classifier,
    }
    for key, module in hooks.items():
        module.register_forward_hook(lambda m, i, out, key=key: seen.__setitem__(key, out))
    with torch.no_grad():
        logits = model(torch.zeros(1, 3, 513, 513))
    assert [tuple(m.shape[1:]) for m in seen["backbone"]] == [
        (256, 129, 129), (512, 65, 65), (1024, 33, 33), (2048, 33, 33),
    ]  # fmt: skip
    assert seen["aspp"].shape[1:] == (256, 33, 33)
    assert seen["pool"].shape[1:] == (256, 1, 1)
    assert seen["reduce"].shape[1:] == (48, 129, 129)
    assert seen["decoder"].shape[1:] == (256, 129, 129)
    assert seen["classifier"].shape[1:] == (21, 129, 129)
    assert logits.shape == (1, 21, 513, 513)


@pytest.mark.parametrize("size", [(33, 33), (65, 97), (64, 100)])
@pytest.mark.parametrize(
    "options", [{}, {"decoder": False}, {"separable": True}, {"image_pooling": False}, {"output_stride": 8}]
)
def test_logits_have_the_size_of_the_image(size, options):
    model = create_model("deeplabv3plus_mini", 5, **options).eval()
    with torch.no_grad():
        images = torch.randn(2, 3, *size)
        logits = model(images)
        assert logits.shape == (2, 5, *size)
        torch.testing.assert_close(model.forward_heads(images)["out"], logits)


@pytest.mark.parametrize("options", [{}, {"separable": True}, {"decoder": False}])
def test_every_parameter_gets_a_finite_gradient(options):
    torch.manual_seed(0)
    model = create_model("deeplabv3plus_mini", 5, **options).train()
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("convs", [1, 2, 3])
@pytest.mark.parametrize("low_level_channels", [8, 48, 64])
def test_decoder_has_the_parameters_of_the_papers_ablations(convs, low_level_channels):
    decoder = Decoder(256, low_level_channels, 256, convs=convs)
    reduce = 256 * low_level_channels + 2 * low_level_channels  # and BatchNorm
    first = 9 * (256 + low_level_channels) * 256 + 2 * 256
    assert sum(p.numel() for p in decoder.parameters()) == reduce + first + (convs - 1) * (9 * 256 * 256 + 2 * 256)


def test_decoder_options_reach_the_model_and_nonsense_is_refused():
    model = create_model("deeplabv3plus_mini", 5, low_level_channels=4, decoder_convs=3)
    assert (model.decoder.reduce[0].out_channels, len(model.decoder.refine)) == (4, 3)
    with pytest.raises(ValueError, match=r"decoder_convs=0: allowed are whole numbers from 1; decoder=False leaves"):
        create_model("deeplabv3plus_mini", 5, decoder_convs=0)
    with pytest.raises(ValueError, match=r"low_level_channels=2\.5: allowed are whole"):
        create_model("deeplabv3plus_mini", 5, low_level_channels=2.5)


def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode():
    model = randomize_statistics(create_model("deeplabv3plus_mini", 5))
    images = torch.randn(3, 3, 65, 65)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)


def test_removing_image_pooling_removes_its_parameters_only():
    with_pooling = ASPP(64, (1, 2, 3), 32)
    without = ASPP(64, (1, 2, 3), 32, image_pooling=False)
    count = sum(p.numel() for p in with_pooling.parameters()) - sum(p.numel() for p in without.parameters())
    assert count == (64 * 32 + 2 * 32) + 32 * 32  # the branch, and its share of the 1x1 that mixes


def test_atrous_convolution_reads_the_positions_that_its_rate_says():
    layer = ConvBNReLU(1, 1, 3, rate=3)[0]
    nn.init.ones_(layer.weight)
    image = torch.zeros(1, 1, 9, 9, requires_grad=True)
    layer(image)[0, 0, 4, 4].backward()
    touched = image.grad[0, 0].nonzero().tolist()
    assert touched == [[y, x] for y in (1, 4, 7) for x in (1, 4, 7)]


# the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output_stride", "rates", "aspp"),
    [(32, (1, 1), (3, 6, 9)), (16, (1, 2), (6, 12, 18)), (8, (2, 4), (12, 24, 36))],
)
def test_plan_gives_the_rates_of_the_papers(output_stride, rates, aspp):
    plan = plan_dilation(output_stride)
    assert (plan["layer3"].rate_after, plan["layer4"].rate_after) == rates
    assert plan.aspp_rates == aspp
    assert plan.stages[-1].output_stride == output_stride
    removed = 1
    for stage in plan.stages:  # the rule itself
        assert stage.rate_before == removed
        removed *= stage.removed
        assert stage.rate_after == removed
    assert removed * output_stride == 32


def test_plan_prints_itself_as_a_table():
    assert str(plan_dilation(16)).splitlines() == [
        "stage     stride  removed     rate  output stride",
        "stem           4        1        1              4",
        "layer1         1        1        1              4",
        "layer2         2        1        1              8",
        "layer3         2        1        1             16",
        "layer4         1        2   1 -> 2             16",
        "ASPP rates: 6, 12, 18",
    ]


# bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_stride", [0, -8, 3, 12, 64, 16.5, "16"])
def test_impossible_output_stride_names_the_possible_ones(output_stride):
    with pytest.raises(ValueError, match=r"output_stride=.*not possible.*allow 4, 8, 16, 32"):
        create_model("deeplabv3plus_mini", 5, output_stride=output_stride)


def test_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"no model 'deeplabv3plus_resnet52'; did you mean deeplabv3plus_resnet50"):
        create_model("deeplabv3plus_resnet52")
    with pytest.raises(ValueError, match=r"no model 'x' \(all: .*deeplabv3plus_mini"):
        create_model("x")


def test_unknown_option_names_the_known_ones():
    with pytest.raises(TypeError, match=r"no option decodr: allowed are .*decoder"):
        create_model("deeplabv3plus_mini", decodr=False)


@pytest.mark.parametrize("num_classes", [0, -1, 256, 2.0, True, "21"])
def test_impossible_class_count_is_refused(num_classes):
    with pytest.raises(ValueError, match=r"num_classes=.*2 to 255.*do not count void"):
        create_model("deeplabv3plus_mini", num_classes)


def test_mini_trunk_has_no_pretrained_weights():
    with pytest.raises(ValueError, match="no ImageNet weights for the mini trunk"):
        create_model("deeplabv3plus_mini", pretrained_backbone=True)


def test_weights_that_cannot_be_downloaded_are_said_to_be(monkeypatch):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(ConnectionError, match=r"could not be downloaded.*checkpoints.*pretrained_backbone=False"):
        create_model("deeplabv3plus_resnet18", pretrained_backbone=True)


def test_pretrained_weights_reach_the_trunk(monkeypatch):
    from torchvision.models import resnet18

    weights = resnet18(weights=None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: weights)
    model = create_model("deeplabv3plus_resnet18", pretrained_backbone=True)
    for key, value in model.backbone.state_dict().items():
        torch.testing.assert_close(value, weights[key])


def test_there_is_no_resnet_of_another_depth():
    with pytest.raises(ValueError, match="no ResNet-42: allowed are 18, 34, 50, 101, 152"):
        ResNetTrunk(42, plan_dilation(16))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(3, 64, 64), ValueError, r"\[3, 64, 64\].*images\[None\]"),
        (torch.zeros(1, 64, 64, 3), ValueError, r"permute"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, r"torch.uint8.*normalized"),
        (torch.zeros(1, 3, 32, 64), ValueError, r"32x64.*at least 33"),
    ],
)
def test_images_that_no_model_can_take_are_refused(images, error, message):
    with pytest.raises(error, match=message):
        create_model("deeplabv3plus_mini", 5).eval()(images)


def test_batch_of_one_in_training_is_refused_with_the_ways_out():
    model = create_model("deeplabv3plus_mini", 5).train()
    with pytest.raises(ValueError, match=r"batch has one image.*two or more.*image_pooling=False"):
        model(torch.zeros(1, 3, 64, 64))
    model.eval()(torch.zeros(1, 3, 64, 64))
    create_model("deeplabv3plus_mini", 5, image_pooling=False).train()(torch.zeros(1, 3, 64, 64))


def test_batch_of_one_is_allowed_where_batchnorm_is_frozen():
    model = create_model("deeplabv3plus_mini", 5).train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    model(torch.zeros(1, 3, 64, 64)).sum().backward()


@pytest.mark.parametrize("name", ALL)
def test_model_can_be_built_again_from_its_spec(name):
    with torch.device("meta"):
        model = create_model(name, 7)
        again = create_model(**model.spec)
    assert [(k, v.shape) for k, v in model.state_dict().items()] == [
        (k, v.shape) for k, v in again.state_dict().items()
    ]
