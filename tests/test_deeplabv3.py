"""DeepLab v3: ASPP and cascade, multi-grid, and the numbers of the paper."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deeplab_lesson import create_model, plan_dilation
from deeplab_lesson.data import Scenes, normalize

MINIS = [{}, {"head": "cascade"}, {"head_conv": True, "aux_head": True}]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(name: str, num_classes: int = 21, **options) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes, **options).eval()


def rates(stage: nn.Module) -> list[int]:
    """Of the 3x3 convolutions, which must keep the map: padding equal to the rate, in both directions."""
    found = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(m.padding == m.dilation and m.dilation[0] == m.dilation[1] for m in found)
    return [m.dilation[0] for m in found]


def with_random_statistics(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(0.2 * torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
    return model.eval()


# ---- size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("deeplabv3_resnet50", {}, 23_508_032 + 15_540_501),  # trunk, and the head as in the paper
        ("deeplabv3_resnet101", {}, 58_040_661),
        ("deeplabv3_resnet50", {"output_stride": 8, "multi_grid": None}, 39_048_533),
        ("deeplabv3_resnet50", {"head_conv": True}, 39_638_869),  # torchvision's, without and with auxiliary head
        ("deeplabv3_resnet50", {"head_conv": True, "aux_head": True}, 42_004_074),
        ("deeplabv3_resnet101", {"head_conv": True}, 58_630_997),
        ("deeplabv3_resnet101", {"head_conv": True, "aux_head": True}, 60_996_202),
        ("deeplabv3_resnet50", {"head": "cascade"}, 23_508_032 + 9 * 4_462_592 + 2049 * 21),
        ("deeplabv3_resnet101", {"head": "cascade"}, 42_500_160 + 9 * 4_462_592 + 2049 * 21),
        ("deeplabv3_mini", {}, 648_877),
        ("deeplabv3_mini", {"head": "cascade"}, 778_573),
    ],
)
def test_parameter_count_at_21_classes(name, options, expected):
    assert count(on_meta(name, **options)) == expected


def test_copy_of_block4_has_three_identity_shortcuts_and_otherwise_its_shapes():
    """9 * 4,462,592 above: three units a copy, 1x1 to 512, 3x3, 1x1 to 2048, BatchNorm, and no projection."""
    from torchvision.models.resnet import Bottleneck

    with torch.device("meta"):
        unit = count(Bottleneck(2048, 512))
    assert unit == 4_462_592
    model = on_meta("deeplabv3_resnet50", head="cascade")
    for block in (model.head.block5, model.head.block6, model.head.block7):
        assert [count(u) for u in block] == [unit] * 3
        assert [u.conv2.weight.shape for u in block] == [u.conv2.weight.shape for u in model.backbone.layer4]


@pytest.mark.parametrize(
    ("head", "mixed"), [("aspp", (1, 256, 33, 33)), ("cascade", (1, 2048, 33, 33))], ids=["aspp", "cascade"]
)
def test_maps_have_the_shapes_that_the_comments_state(head, mixed):
    """For a 513x513 image at output stride 16; on the meta device, which computes shapes alone."""
    model = on_meta("deeplabv3_resnet50", head=head, aux_head=True)
    seen = {}
    parts = {"trunk": model.backbone, "head": model.head, "classifier": model.classifier}
    if head == "cascade":
        parts |= {"block5": model.head.block5, "block6": model.head.block6}
    for key, module in parts.items():
        module.register_forward_hook(lambda m, i, out, key=key: seen.__setitem__(key, out))
    heads = model.forward_heads(torch.zeros(1, 3, 513, 513, device="meta"))
    assert [tuple(m.shape) for m in seen["trunk"][2:]] == [(1, 1024, 33, 33), (1, 2048, 33, 33)]
    assert seen["head"].shape == mixed
    assert all(seen[key].shape == (1, 2048, 33, 33) for key in seen.keys() & {"block5", "block6"})
    assert seen["classifier"].shape == (1, 21, 33, 33)
    assert {key: tuple(logits.shape) for key, logits in heads.items()} == dict.fromkeys(
        ("out", "aux"), (1, 21, 513, 513)
    )


@pytest.mark.parametrize("size", [(33, 33), (65, 97), (321, 321), (513, 513)])
@pytest.mark.parametrize("options", [*MINIS, {"output_stride": 8}, {"image_pooling": False}], ids=str)
def test_logits_have_the_size_of_the_image(size, options):
    model = create_model("deeplabv3_mini", 5, **options).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, *size)).shape == (1, 5, *size)


# ---- rates -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output_stride", "multi_grid", "expected"),
    [
        (16, "best", [2, 4, 8]),
        (8, "best", [4, 8, 16]),
        (32, "best", [1, 2, 4]),
        (16, (1, 2, 1), [2, 4, 2]),
        (16, (1, 1, 1), [2, 2, 2]),  # the paper's "no multi-grid": one rate in the whole block
        (16, None, [1, 2, 2]),  # the plan: the first unit reads the map before its stride
        (8, None, [2, 4, 4]),
    ],
)
def test_multi_grid_multiplies_the_rate_of_the_block(output_stride, multi_grid, expected):
    model = on_meta("deeplabv3_resnet50", output_stride=output_stride, multi_grid=multi_grid)
    assert rates(model.backbone.layer4) == expected
    assert rates(model.backbone.layer3) == {8: [1] + [2] * 5}.get(output_stride, [1] * 6), "layer4 alone"


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        (16, [[2, 4, 2], [4, 8, 4], [8, 16, 8], [16, 32, 16]]),
        (8, [[4, 8, 4], [8, 16, 8], [16, 32, 16], [32, 64, 32]]),
        (256, [[1, 2, 1]] * 4),
    ],
)
def test_rate_doubles_from_block_to_block_with_multi_grid_inside_each(output_stride, expected):
    model = on_meta("deeplabv3_resnet50", head="cascade", output_stride=output_stride)
    blocks = [model.backbone.layer4, model.head.block5, model.head.block6, model.head.block7]
    assert [rates(block) for block in blocks] == expected


@pytest.mark.parametrize("output_stride", [8, 16, 64])
def test_dense_cascade_subsampled_equals_the_strided_cascade(output_stride):
    """At output stride 256 no stride is removed (figure 3a); without multi-grid the rates only make up for strides."""

    def features(stride: int, multi_grid) -> torch.Tensor:
        torch.manual_seed(3)
        model = create_model("deeplabv3_mini", 5, head="cascade", output_stride=stride, multi_grid=multi_grid)
        with_random_statistics(model)
        with torch.no_grad():
            return model.head(model.backbone(image)[-1])

    image = torch.randn(1, 3, 513, 300, generator=torch.Generator().manual_seed(1))
    want, step = features(256, None), 256 // output_stride
    assert want.shape == (1, 48, 3, 2)
    assert want.std() > 0.01
    dense = features(output_stride, None)[:, :, ::step, ::step]
    assert (dense - want).norm() / want.norm() < 1e-5
    gridded = features(output_stride, (1, 2))[:, :, ::step, ::step]
    assert (gridded - want).norm() / want.norm() > 0.05, "multi-grid is another network, on purpose"


def test_plan_prints_the_rates_of_cascade_and_multi_grid():
    strides = {"stem": 4, "layer1": 1, "layer2": 2, "layer3": 2, "layer4": 2, "block5": 2}
    plan = plan_dilation(8, strides).with_multi_grid((1, 12, 1), ("layer4", "block5"))
    assert str(plan).splitlines()[:-1] == [
        "stage     stride  removed      rate  output stride",
        "stem           4        1         1              4",
        "layer1         1        1         1              4",
        "layer2         2        1         1              8",
        "layer3         1        2    1 -> 2              8",
        "layer4         1        2  4, 48, 4              8",
        "block5         1        2  8, 96, 8              8",
    ]


def test_aspp_rates_double_when_the_output_stride_halves():
    for output_stride, expected in ((16, [6, 12, 18]), (8, [12, 24, 36]), (32, [3, 6, 9])):
        assert rates(on_meta("deeplabv3_resnet50", output_stride=output_stride).head) == expected


# ---- behaviour ---------------------------------------------------------------------------------------------


def test_image_pooling_lets_every_position_see_the_whole_image_and_the_cascade_does_not():
    torch.manual_seed(0)
    image = torch.randn(1, 3, 1025, 65)  # one long strip: far beyond the field of the convolutions of the mini
    other = image.clone()
    other[:, :, 1000:] += 3
    changed = {}
    for image_pooling in (True, False):
        model = create_model("deeplabv3_mini", 5, image_pooling=image_pooling, multi_grid=None).eval()
        with torch.no_grad():
            changed[image_pooling] = (model(other) - model(image))[:, :, :100].abs().max().item()
    assert changed[True] > 1e-6
    assert changed[False] == 0


@pytest.mark.parametrize("options", MINIS, ids=str)
def test_every_parameter_gets_a_finite_gradient(options):
    torch.manual_seed(0)
    model = create_model("deeplabv3_mini", 5, **options).train()
    heads = model.forward_heads(torch.randn(2, 3, 64, 64))
    sum(logits.square().mean() for logits in heads.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("options", MINIS, ids=str)
def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode(options):
    model = with_random_statistics(create_model("deeplabv3_mini", 5, **options))
    images = torch.randn(3, 3, 65, 65)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)


def test_auxiliary_head_stands_beside_out_and_changes_nothing_else():
    torch.manual_seed(0)
    model = create_model("deeplabv3_mini", 5, aux_head=True).eval()
    plain = create_model("deeplabv3_mini", 5).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("aux_head.")})
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        heads = model.forward_heads(images)
        assert heads.keys() == {"out", "aux"}
        assert heads["aux"].shape == heads["out"].shape == (2, 5, 65, 97)
        assert plain.forward_heads(images).keys() == {"out"}
        torch.testing.assert_close(plain(images), heads["out"])


def test_batch_of_one_in_training_is_refused_by_image_pooling_alone():
    image = torch.zeros(1, 3, 97, 97)
    with pytest.raises(ValueError, match=r"batch has one image.*image_pooling=False"):
        create_model("deeplabv3_mini", 5).train()(image)
    create_model("deeplabv3_mini", 5, image_pooling=False).train()(image)
    create_model("deeplabv3_mini", 5, head="cascade").train()(image)


@pytest.mark.parametrize("options", MINIS, ids=str)
def test_thirty_steps_on_four_scenes_halve_the_loss(options):
    torch.manual_seed(0)
    scenes = Scenes("train", (64, 64), length=4)
    pairs = [scenes.read(index) for index in range(4)]
    images = torch.stack([normalize(image) for image, _ in pairs])
    labels = torch.stack([torch.from_numpy(label).long() for _, label in pairs])
    model = create_model("deeplabv3_mini", len(Scenes.classes), **options).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(30):
        heads = model.forward_heads(images)
        loss = F.cross_entropy(heads["out"], labels, ignore_index=255)
        losses.append(loss.item())
        if "aux" in heads:
            loss = loss + 0.5 * F.cross_entropy(heads["aux"], labels, ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_model_can_be_built_again_from_its_spec_after_json():
    model = on_meta("deeplabv3_mini", 7, head="cascade", multi_grid=(2, 1), output_stride=32)
    again = on_meta(**json.loads(json.dumps(model.spec)))
    assert rates(again) == rates(model)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deeplabv3_mini", {"head": "asp"}, r"head='asp': allowed are 'aspp' and 'cascade'"),
        ("deeplabv3_mini", {"head": "cascade", "head_conv": True}, r"head_conv=True.*allowed with head='aspp'"),
        ("deeplabv3_mini", {"multi_grid": (1, 2, 4)}, r"\(1, 2, 4\) has 3 unit rates, and layer4 has 2.*\(1, 2\)"),
        ("deeplabv3_resnet50", {"multi_grid": [1, 2]}, r"\(1, 2\) has 2 unit rates, and layer4 has 3.*\(1, 2, 4\)"),
        ("deeplabv3_resnet50", {"multi_grid": (1, 0, 1)}, r"multi_grid=\(1, 0, 1\): allowed are whole numbers.*None"),
        ("deeplabv3_resnet50", {"multi_grid": (1, 2.0, 4)}, r"multi_grid=.*whole numbers of at least 1"),
        ("deeplabv3_resnet50", {"multi_grid": ()}, r"multi_grid=\(\): allowed are whole numbers"),
        ("deeplabv3_resnet50", {"multi_grid": "bset"}, r"multi_grid='bset': allowed are whole numbers"),
        ("deeplabv3_resnet50", {"output_stride": 64}, r"output_stride=64 is not possible.*allow 4, 8, 16, 32;"),
        ("deeplabv3_mini", {"head": "cascade", "output_stride": 512}, r"block7 2\) allow 4, 8, 16, 32, 64, 128, 256;"),
        ("deeplabv3_mini", {"pretrained_backbone": True}, r"no ImageNet weights for the mini.*deeplabv3_resnet50"),
    ],
)
def test_impossible_options_are_refused_with_the_possible_ones(name, options, message):
    with pytest.raises(ValueError, match=message):
        on_meta(name, **options)


def test_pictures_below_33_pixels_are_refused():
    with pytest.raises(ValueError, match=r"32x64.*at least 33"):
        create_model("deeplabv3_mini", 5).eval()(torch.zeros(1, 3, 32, 64))
