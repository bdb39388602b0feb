"""Attention to scale: the same network on several sizes of the image, and every pixel's choice between them."""

import pytest
import torch
from few_steps import CLASSES, four_pictures, losses_of_steps, parameters_without_finite_gradient, shapes_on_meta
from torch import Tensor, nn
from torch.nn import functional as F

from deeplab_lesson import create_model
from deeplab_lesson.losses import cross_entropy
from deeplab_lesson.models.attention_to_scale import fuse_by_weights

TWO, THREE = (1.0, 0.5), (1.0, 0.75, 0.5)
FUSIONS = ["attention", "average", "max"]


def build_on_meta(name: str, num_classes: int = 21, **options: object) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, num_classes, **options)


def size_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def loud_mini(**options: object) -> nn.Module:
    """A mini in eval mode, with BatchNorm statistics that are not the defaults, and weights of several sizes."""
    torch.manual_seed(0)
    model = create_model("attention_to_scale_mini", 5, **options)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.2)
            layer.running_var.uniform_(0.5, 1.5)
    if model.attention is not None:
        nn.init.normal_(model.attention.score.weight, std=2.0)  # weights far from uniform
    return model.eval()


def bilinear(features: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(features, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("attention_to_scale_resnet50", {}, 52_893_271),
        ("attention_to_scale_resnet50", {"scales": THREE}, 52_893_271 + 9 * 1024 * 512 + 512 + 1),
        ("attention_to_scale_resnet50", {"fusion": "average"}, 52_893_271 - (9 * 2048 * 512 + 512 + 512 * 2 + 2)),
        ("attention_to_scale_resnet50", {"fusion": "max"}, 52_893_271 - (9 * 2048 * 512 + 512 + 512 * 2 + 2)),
        ("attention_to_scale_mini", {}, 618_447),
    ],
)
def test_parameter_count_at_21_classes(name, options, count):
    assert size_of(build_on_meta(name, **options)) == count


def test_count_follows_from_trunk_fc6_fc7_fc8_and_the_attention_model():
    features = 9 * 2048 * 1024 + 1024 + 1024 * 1024 + 1024
    attention = 9 * 2 * 1024 * 512 + 512 + 512 * 2 + 2
    assert 23_508_032 + features + 1024 * 21 + 21 + attention == 52_893_271


def test_shapes_are_those_of_the_comments():
    model = build_on_meta("attention_to_scale_resnet50")
    seen = shapes_on_meta(model, ["backbone", "features", "classifier", "attention.hidden", "attention"], (513, 513))
    assert seen["backbone"][3::4] == [(2048, 65, 65), (2048, 33, 33)]
    assert seen["features"] == [(1024, 65, 65), (1024, 33, 33)]
    assert seen["classifier"] == [(21, 65, 65), (21, 33, 33)]
    assert seen["attention.hidden"] == [(512, 65, 65)]
    assert seen["attention"] == [(2, 65, 65)]
    assert seen["out"] == [(21, 513, 513)]


@pytest.mark.parametrize(("output_stride", "rate"), [(None, 12), (8, 12), (16, 6)])
def test_fc6_is_largefovs_three_by_three_at_rate_12(output_stride, rate):
    model = build_on_meta("attention_to_scale_resnet50", output_stride=output_stride)
    dilated = [
        layer for layer in model.features.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] == 3
    ]
    assert [(layer.dilation, layer.padding) for layer in dilated] == [((rate, rate), (rate, rate))]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("size", [(33, 33), (65, 97), (64, 100)])
def test_every_output_has_the_size_of_the_image(fusion, size):
    model = loud_mini(fusion=fusion, scales=THREE)
    with torch.no_grad():
        heads = model.forward_heads(torch.randn(2, 3, *size))
    assert heads.keys() - {"weights"} == {"out", "scale_1", "scale_0.75", "scale_0.5"}
    for name in heads.keys() - {"weights"}:
        assert heads[name].shape == (2, 5, *size), name
        assert heads[name].isfinite().all()
    assert ("weights" in heads) == (fusion != "max")


@pytest.mark.parametrize("scales", [TWO, THREE])
def test_weights_are_positive_and_sum_to_one_at_each_pixel(scales):
    with torch.no_grad():
        weights = loud_mini(scales=scales).forward_heads(torch.randn(2, 3, 97, 65))["weights"]
    assert weights.shape == (2, len(scales), 13, 9)  # the largest scale's map at output stride 8
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 13, 9))
    assert weights.std(dim=(2, 3)).min() > 0.01, "the weights differ from pixel to pixel"


@pytest.mark.parametrize("scales", [TWO, THREE])
def test_average_is_attention_with_uniform_weights(scales):
    attention, average = loud_mini(scales=scales), loud_mini(scales=scales, fusion="average")
    average.load_state_dict(
        {key: value for key, value in attention.state_dict().items() if not key.startswith("attention.")}
    )
    image = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        assert not torch.allclose(attention(image), average(image), atol=1e-2)
        nn.init.zeros_(attention.attention.score.weight)
        nn.init.constant_(attention.attention.score.bias, 0.7)  # the same for all scales
        want, got = average.forward_heads(image), attention.forward_heads(image)
    torch.testing.assert_close(want["weights"], torch.full_like(want["weights"], 1 / len(scales)))
    for name in want:
        torch.testing.assert_close(got[name], want[name], atol=1e-6, rtol=1e-5)


def test_average_of_the_scales_is_the_mean_of_their_outputs():
    with torch.no_grad():
        heads = loud_mini(scales=THREE, fusion="average").forward_heads(torch.randn(1, 3, 65, 97))
    mean = (heads["scale_1"] + heads["scale_0.75"] + heads["scale_0.5"]) / 3
    torch.testing.assert_close(heads["out"], mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_all_attention_on_one_scale_is_that_scales_output(chosen):
    model = loud_mini(scales=THREE)
    nn.init.zeros_(model.attention.score.weight)
    with torch.no_grad():
        model.attention.score.bias.copy_(100.0 * F.one_hot(torch.tensor(chosen), 3))
        heads = model.forward_heads(torch.randn(1, 3, 65, 97))
    torch.testing.assert_close(heads["out"], heads[("scale_1", "scale_0.75", "scale_0.5")[chosen]])


@pytest.mark.parametrize("fusion", FUSIONS)
def test_merging_equals_the_papers_equations_written_out(fusion):
    """Scores of every scale by the parts one by one, enlarged to the largest scale's map, merged class by class."""
    model = loud_mini(scales=THREE, fusion=fusion)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features, scores = [], []
        for size in ((64, 96), (48, 72), (32, 48)):
            fc7 = model.features(model.backbone(image if size == (64, 96) else bilinear(image, size))[3])
            features.append(bilinear(fc7, (8, 12)))
            scores.append(bilinear(model.classifier(fc7), (8, 12)))
        if fusion == "max":
            merged = torch.maximum(torch.maximum(scores[0], scores[1]), scores[2])
        else:
            logits = torch.zeros(1, 3, 8, 12)
            if fusion == "attention":
                logits = model.attention.score(F.relu(model.attention.hidden(torch.cat(features, 1))))
            exponents = [logits[:, s].exp() for s in range(3)]
            weights = [exponent / sum(exponents) for exponent in exponents]
            merged = torch.stack([sum(weights[s] * scores[s][:, c] for s in range(3)) for c in range(5)], dim=1)
        heads = model.forward_heads(image)
        torch.testing.assert_close(heads["out"], bilinear(merged, (64, 96)), atol=1e-4, rtol=1e-4)
        for name, score in zip(("scale_1", "scale_0.75", "scale_0.5"), scores, strict=True):
            torch.testing.assert_close(heads[name], bilinear(score, (64, 96)), atol=1e-5, rtol=1e-5)


def test_one_weight_a_pixel_multiplies_all_classes():
    scores = [torch.tensor([[[[1.0]], [[2.0]]]]), torch.tensor([[[[10.0]], [[40.0]]]])]
    weights = torch.tensor([[[[0.75]], [[0.25]]]])
    assert fuse_by_weights(scores, weights).flatten().tolist() == [3.25, 11.5]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_parameter_gets_a_finite_gradient(fusion):
    torch.manual_seed(0)
    model = create_model("attention_to_scale_mini", 5, fusion=fusion)
    assert parameters_without_finite_gradient(model, torch.randn(2, 3, 96, 64)) == []


def test_extra_loss_trains_a_scale_that_attention_ignores():
    model = loud_mini(scales=TWO)
    images, labels = four_pictures()
    labels[labels < 255] %= 5
    nn.init.zeros_(model.attention.score.weight)
    with torch.no_grad():
        model.attention.score.bias.copy_(torch.tensor([200.0, 0.0]))  # all on the first scale
    features = []
    model.features.register_forward_hook(lambda module, args, out: features.append(out))
    heads = model.forward_heads(images)
    of_out = torch.autograd.grad(cross_entropy(heads["out"], labels), features, retain_graph=True)
    of_extra = torch.autograd.grad(cross_entropy(heads["scale_0.5"], labels), features, allow_unused=True)
    assert of_out[0].abs().sum() > 0
    assert of_out[1].abs().sum() == 0
    assert of_extra[0] is None
    assert of_extra[1].abs().sum() > 0


def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode():
    model = loud_mini()
    images = torch.randn(3, 3, 65, 47)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_mini_learns_four_pictures_in_thirty_steps(fusion):
    torch.manual_seed(0)
    losses = losses_of_steps(create_model("attention_to_scale_mini", CLASSES, fusion=fusion))
    assert losses[-1] < losses[0] / 2, losses


# bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(), (1.0,), (0.5, 1.0), (1.0, 1.0), (1.5, 1.0), (1.0, 0.1), (1.0, 0.0)])
def test_impossible_scales_are_refused(scales):
    with pytest.raises(ValueError, match=r"scales=.*two or more, the largest first.*\(1, 0.75, 0.5\)"):
        create_model("attention_to_scale_mini", scales=scales)


def test_unknown_fusion_names_the_known_ones():
    with pytest.raises(ValueError, match=r"fusion='mean': allowed are attention, average, max"):
        create_model("attention_to_scale_mini", fusion="mean")


def test_unknown_option_names_the_known_ones():
    with pytest.raises(TypeError, match=r"no option scale: allowed are .*fusion.*scales"):
        create_model("attention_to_scale_mini", scale=(1, 0.5))


@pytest.mark.parametrize("output_stride", [0, 12, 64])
def test_impossible_output_stride_names_the_possible_ones(output_stride):
    with pytest.raises(ValueError, match=r"output_stride=.*not possible.*allow 4, 8, 16, 32"):
        create_model("attention_to_scale_mini", output_stride=output_stride)


def test_mini_trunk_has_no_pretrained_weights():
    with pytest.raises(ValueError, match=r"no ImageNet weights for the mini trunk.*attention_to_scale_resnet50"):
        create_model("attention_to_scale_mini", pretrained_backbone=True)
