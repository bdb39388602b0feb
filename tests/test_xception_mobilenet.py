"""The two trunks of depthwise separable convolutions: exact in shape and size, dense by the atrous rule."""

from urllib.error import URLError

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deeplab_lesson import create_model, plan_dilation
from deeplab_lesson.backbones import MOBILENET_STRIDES, XCEPTION_STRIDES, MobileNetV3Trunk, Xception65Trunk
from deeplab_lesson.backbones.xception import SeparableConvolution
from deeplab_lesson.data import Scenes
from deeplab_lesson.losses import cross_entropy

SYSTEMS = ("deeplabv3plus_xception65", "deeplabv3plus_mobilenetv3")
SIZES = [(96, 128), (129, 65)]  # even and odd


def xception(output_stride: int, **options: bool) -> nn.Module:
    return Xception65Trunk(plan_dilation(output_stride, XCEPTION_STRIDES), **options)


def mobilenet(output_stride: int, excitation: bool = False) -> nn.Module:
    """Squeeze-and-excitation is left out where asked: it averages over whichever map it is given."""
    from torchvision.ops import SqueezeExcitation

    trunk = MobileNetV3Trunk(plan_dilation(output_stride, MOBILENET_STRIDES))
    for module in list(trunk.modules()):
        for name, child in module.named_children():
            if isinstance(child, SqueezeExcitation) and not excitation:
                setattr(module, name, nn.Identity())
    return trunk


def make_alive(trunk: nn.Module) -> nn.Module:
    """Random weights under which signals survive to the end, then random BatchNorm statistics around the true ones.

    torchvision's initialization of depthwise convolutions lets the features die down to BatchNorm's biases, which
    are equal in any network.
    """
    generator = torch.Generator().manual_seed(3)
    norms = [layer for layer in trunk.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * (2 / fan_in) ** 0.5
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 1.0
    with torch.no_grad():
        trunk.train()(torch.randn(2, 3, 96, 96, generator=generator))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        noise = torch.rand(4, layer.num_features, generator=generator)
        layer.running_mean += (noise[0] - 0.5) * layer.running_var.sqrt()
        layer.running_var *= 0.5 + noise[1]
        layer.weight.data = 0.8 + 0.4 * noise[2]
        layer.bias.data = 0.4 * noise[3] - 0.2
    return trunk.eval()


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    assert want.std(dim=(2, 3)).mean() > 0.05, "the features tell positions apart: equal constants prove nothing"
    return ((got - want).norm() / want.norm()).item()


def last_map(trunk: nn.Module, size: tuple[int, int]) -> torch.Tensor:
    with torch.no_grad():
        return trunk(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)))[-1]


TRUNKS = {
    "xception, code": xception,
    "xception, paper": lambda output_stride: xception(output_stride, relu_after_depthwise=True),
    "mobilenet": mobilenet,
}


@pytest.mark.parametrize("kind", TRUNKS)
def test_dense_network_subsampled_equals_strided_network(kind):
    strided = make_alive(TRUNKS[kind](32))
    for output_stride in (16, 8):
        dense = TRUNKS[kind](output_stride).eval()
        dense.load_state_dict(strided.state_dict())
        step = 32 // output_stride
        for size in SIZES:
            got = last_map(dense, size)[:, :, ::step, ::step]
            assert relative_error(got, last_map(strided, size)) < 1e-5


def test_dilating_the_convolution_whose_stride_was_removed_is_another_network():
    """What torchvision's own `dilated` option does; if it passed the test above, that test would have no teeth."""
    for build, find in (
        (xception, lambda trunk: trunk.exit1.conv3[1]),
        (mobilenet, lambda trunk: trunk.stage4[0].block[1][0]),
    ):
        strided, dense = make_alive(build(32)), build(16).eval()
        dense.load_state_dict(strided.state_dict())
        convolution = find(dense)
        assert convolution.dilation == (1, 1)
        assert convolution.groups == convolution.in_channels, "the depthwise one"
        convolution.dilation = (2, 2)
        convolution.padding = tuple(2 * padding for padding in convolution.padding)
        got = last_map(dense, (128, 160))[:, :, ::2, ::2]
        assert relative_error(got, last_map(strided, (128, 160))) > 0.05


def test_squeeze_and_excitation_sees_another_map_in_the_dense_network():
    strided, dense = make_alive(mobilenet(32, excitation=True)), mobilenet(16, excitation=True).eval()
    dense.load_state_dict(strided.state_dict())
    error = relative_error(last_map(dense, (128, 160))[:, :, ::2, ::2], last_map(strided, (128, 160)))
    assert error > 1e-3, "that is why the test of the atrous rule leaves it out"


# Xception ---------------------------------------------------------------------------------------------------------


def test_xception_has_the_count_of_the_modified_aligned_xception_65():
    """BatchNorm after each depthwise convolution counts; where ReLU stands does not."""
    for relu_after_depthwise in (False, True):
        with torch.device("meta"):
            trunk = xception(16, relu_after_depthwise=relu_after_depthwise)
        assert sum(parameter.numel() for parameter in trunk.parameters()) == 37_867_312
        convolutions = [layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
        shortcuts = 4  # of the three entry blocks and the first of the exit flow
        assert len(convolutions) == 2 + 2 * 3 * (3 + 16 + 2) + shortcuts
        assert not any(isinstance(layer, nn.MaxPool2d) for layer in trunk.modules())


def test_xception_rates_are_those_of_the_authors_code():
    """Rates of the 3x3 by block: middle flow 1 and 2, exit flow 1, 2 and 2, 4, at output stride 16 and 8."""
    for output_stride, want in ((32, (1, 1, 1, 1)), (16, (1, 1, 1, 2)), (8, (1, 2, 2, 4))):
        with torch.device("meta"):
            trunk = xception(output_stride)
        got = []
        for part in (trunk.entry3, trunk.middle, trunk.exit1, trunk.exit2):
            rates = {c.dilation for c in part.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)}
            assert len(rates) == 1
            got.append(rates.pop()[0])
        assert tuple(got) == want


def test_xception_batchnorm_has_the_epsilon_of_the_authors_code():
    with torch.device("meta"):
        model = create_model("deeplabv3plus_xception65")
    epsilon = {name.split(".")[0]: m.eps for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert epsilon == {"backbone": 1e-3, "aspp": 1e-5, "decoder": 1e-5}


def test_relu_stands_where_code_and_paper_put_it():
    def order(module: nn.Module) -> str:
        letters = {nn.ReLU: "R", nn.BatchNorm2d: "B"}
        return "".join(letters.get(type(m), "D" if getattr(m, "groups", 1) > 1 else "P") for m in module)

    with torch.device("meta"):
        code, paper = xception(16), xception(16, relu_after_depthwise=True)
    assert {order(m) for m in paper.modules() if isinstance(m, SeparableConvolution)} == {"DBRPBR"}
    assert {order(m) for m in code.exit2.modules() if isinstance(m, SeparableConvolution)} == {"DBRPBR"}
    before = [m for name, m in code.named_modules() if isinstance(m, SeparableConvolution) and "exit2" not in name]
    assert {order(m) for m in before} == {"RDBPB"}
    assert len(before) == 3 * (3 + 16 + 1)


def test_xception_block_equals_its_formula_written_out():
    """Entry block 2 from its weights, by functions: the low-level map is its second convolution, before the sum."""
    trunk = make_alive(xception(32))
    images = torch.randn(1, 3, 65, 97)

    def norm(x, layer):
        scale = layer.weight / (layer.running_var + 1e-3).sqrt()
        return (x - layer.running_mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]

    def separable(x, layer, stride):
        depthwise, first, pointwise, second = list(layer)[1:]
        x = F.conv2d(F.pad(x.relu(), (1, 1, 1, 1)), depthwise.weight, stride=stride, groups=x.shape[1])
        return norm(torch.einsum("nchw,oc->nohw", norm(x, first), pointwise.weight[:, :, 0, 0]), second)

    with torch.no_grad():
        x = trunk.entry1(trunk.conv2(trunk.conv1(images)))
        low_level, c3, _, _ = trunk(images)
        block = trunk.entry2
        second = separable(separable(x, block.conv1, 1), block.conv2, 1)
        shortcut = norm(F.conv2d(x[:, :, ::2, ::2], block.shortcut[0].weight), block.shortcut[1])
        torch.testing.assert_close(low_level, second, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(c3, separable(second, block.conv3, 2) + shortcut, atol=1e-4, rtol=1e-4)
        assert (low_level < 0).any(), "no ReLU yet"
        middle = trunk.middle[0]
        y = torch.randn(1, 728, 5, 7)
        third = separable(separable(separable(y, middle.conv1, 1), middle.conv2, 1), middle.conv3, 1)
        torch.testing.assert_close(middle(y), third + y, atol=1e-4, rtol=1e-4)
        assert trunk.exit2.shortcut is None


# MobileNetV3 ------------------------------------------------------------------------------------------------------


def depthwise_geometry(features: nn.Module) -> list[tuple[tuple[int, ...], ...]]:
    return [
        (c.kernel_size, c.stride, c.dilation, c.padding)
        for c in features.modules()
        if isinstance(c, nn.Conv2d) and c.kernel_size != (1, 1)
    ]


def test_mobilenet_differs_from_torchvisions_dilated_one_in_the_first_convolution_only():
    """torchvision dilates the depthwise convolution whose stride it removes; behind it, both agree."""
    from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf

    with torch.device("meta"):
        theirs = MobileNetV3(*_mobilenet_v3_conf("mobilenet_v3_large", dilated=True)).features
        ours = mobilenet(16, excitation=True)
    different = [
        (mine, other)
        for mine, other in zip(depthwise_geometry(ours), depthwise_geometry(theirs), strict=True)
        if mine != other
    ]
    assert different == [(((5, 5), (1, 1), (1, 1), (2, 2)), ((5, 5), (1, 1), (2, 2), (4, 4)))]


def test_mobilenet_at_output_stride_32_is_torchvisions_network():
    from torchvision.models import mobilenet_v3_large

    theirs, ours = mobilenet_v3_large(weights=None).features.eval(), mobilenet(32, excitation=True)
    stages = nn.Sequential(*ours.stage1, *ours.stage2, *ours.stage3, *ours.stage4)
    stages.load_state_dict(theirs.state_dict())
    make_alive(ours)
    theirs.load_state_dict(stages.state_dict())
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[-1], theirs(images))


def test_pretrained_weights_reach_the_mobilenet(monkeypatch):
    from torchvision.models import mobilenet_v3_large

    weights = mobilenet_v3_large(weights=None).state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: weights)
    trunk = create_model("deeplabv3plus_mobilenetv3", pretrained_backbone=True).backbone
    loaded = [value for stage in trunk.children() for value in stage.state_dict().values()]
    wanted = [value for key, value in weights.items() if key.startswith("features.")]
    assert len(loaded) == len(wanted)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(loaded, wanted, strict=True))


def test_mobilenet_weights_that_cannot_be_downloaded_are_said_to_be(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    message = r"MobileNetV3-Large could not be downloaded.*mobilenet_v3_large-.*pth.*checkpoints.*=False"
    with pytest.raises(ConnectionError, match=message):
        create_model("deeplabv3plus_mobilenetv3", pretrained_backbone=True)


# the systems ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        # jfzhang95's has 128 low-level channels where the authors' code has 256: 54,705,317 + 128 * 48
        ("deeplabv3plus_xception65", {}, 54_711_461),
        ("deeplabv3plus_xception65", {"relu_after_depthwise": True, "output_stride": 8}, 54_711_461),
        ("deeplabv3plus_xception65", {"separable": True}, 41_055_413),
        ("deeplabv3plus_mobilenetv3", {}, 11_727_653),
        ("deeplabv3plus_mobilenetv3", {"separable": True}, 4_720_373),
    ],
)
def test_parameter_count_at_21_classes(name, options, count):
    with torch.device("meta"):
        model = create_model(name, 21, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_trunks_give_the_shapes_that_their_comments_state():
    seen = {}
    for kind, build in (("xception", xception), ("mobilenet", mobilenet)):
        with torch.device("meta"):
            trunk = build(16).eval()
        for name, module in trunk.named_children():
            module.register_forward_hook(
                lambda m, i, out, key=f"{kind} {name}": seen.__setitem__(key, tuple(out.shape[1:]))
            )
        maps = [tuple(m.shape[1:]) for m in trunk(torch.zeros(1, 3, 513, 513, device="meta"))]
        assert tuple(m[0] for m in maps) == trunk.channels
        seen[kind] = maps
    assert seen["xception"] == [(256, 129, 129), (256, 65, 65), (728, 33, 33), (2048, 33, 33)]
    assert seen["mobilenet"] == [(24, 129, 129), (40, 65, 65), (112, 33, 33), (960, 33, 33)]
    assert seen["xception conv1"] == (32, 257, 257)
    assert seen["xception conv2"] == (64, 257, 257)
    assert seen["xception entry1"] == (128, 129, 129)
    assert seen["xception entry3"] == (728, 33, 33)
    assert seen["xception exit1"] == (1024, 33, 33)


@pytest.mark.parametrize("build", [xception, mobilenet])
def test_map_at_the_trunks_end_has_the_output_stride(build):
    for output_stride in (32, 16, 8, 4):
        with torch.device("meta"):
            maps = build(output_stride).eval()(torch.zeros(1, 3, 64, 128))
        assert maps[0].shape[2:] == (16, 32), "low-level features stay at stride 4"
        assert maps[-1].shape[2:] == (64 // output_stride, 128 // output_stride)


@pytest.mark.parametrize("name", SYSTEMS)
def test_logits_have_the_size_of_the_image(name):
    with torch.device("meta"):
        model = create_model(name, 5, output_stride=8).eval()
        for size in ((33, 33), (65, 97), (321, 321), (513, 513)):
            assert model(torch.zeros(1, 3, *size)).shape == (1, 5, *size)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_parameter_gets_a_finite_gradient_and_the_loss_falls_in_five_steps(name):
    torch.manual_seed(0)
    model = create_model(name, len(Scenes.classes)).train()
    scenes = Scenes("train", (48, 48), length=2)
    images, labels = zip(*(scenes.read(index) for index in range(2)), strict=True)
    batch = torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2).float() / 64 - 2
    target = torch.stack([torch.from_numpy(label) for label in labels]).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    values = []
    for step in range(5):
        optimizer.zero_grad()
        loss = cross_entropy(model(batch), target)
        loss.backward()
        if step == 0:
            for key, parameter in model.named_parameters():
                assert parameter.grad.isfinite().all(), key
                assert parameter.grad.abs().sum() > 0, key
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", SYSTEMS)
def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode(name):
    torch.manual_seed(0)
    model = create_model(name, 5)
    make_alive(model.backbone)
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        together = model.eval()(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert together.shape == (2, 5, 65, 97)
    assert (together[0] - together[1]).abs().max() > 1e-3, "the two pictures differ"
    assert (together - alone).norm() < 1e-4 * together.norm()


def test_there_are_no_weights_for_xception():
    with pytest.raises(ValueError, match=r"no ImageNet weights for Xception-65; allowed with .*resnet101"):
        create_model("deeplabv3plus_xception65", pretrained_backbone=True)


@pytest.mark.parametrize("name", SYSTEMS)
def test_impossible_output_stride_names_the_possible_ones(name):
    for output_stride in (0, 2, 12, 64):
        with pytest.raises(ValueError, match=r"output_stride=.*not possible.*allow 4, 8, 16, 32"):
            create_model(name, output_stride=output_stride)


def test_only_xception_has_the_option_about_its_relu():
    with pytest.raises(TypeError, match="no option relu_after_depthwise"):
        create_model("deeplabv3plus_mobilenetv3", relu_after_depthwise=True)
