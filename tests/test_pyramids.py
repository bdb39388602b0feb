"""PSPNet's and FPN's pyramids, which are not DeepLab's."""

import numpy as np
import pytest
import torch
from few_steps import CLASSES, losses_of_steps, parameters_without_finite_gradient, shapes_on_meta
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from deeplab_lesson import create_model
from deeplab_lesson.layers.resize import repeat_features
from deeplab_lesson.models.pyramids import FeaturePyramid, PyramidPooling, SemanticHead

MINIS = ["pspnet_mini", "fpn_mini"]
RESNET50 = 23_508_032  # torchvision's, without its classifier


def build_on_meta(name: str, num_classes: int = 21, **options: object) -> nn.Module:
    with torch.device("meta"):
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


def test_pspnet_count_follows_from_its_parts():
    branches = 4 * (2048 * 512 + 2 * 512)
    mix = 9 * 4096 * 512 + 2 * 512
    count = size_of(build_on_meta("pspnet_resnet50"))
    assert count == RESNET50 + branches + mix + 512 * 21 + 21 == 46_592_597


def test_fpn_count_follows_from_its_parts():
    pyramid = 256 * (256 + 512 + 1024 + 2048) + 4 * 256 + 4 * (9 * 256 * 256 + 256)
    climbs = 4 * 9 * 256 * 128 + 3 * 9 * 128 * 128 + 7 * 2 * 128
    count = size_of(build_on_meta("fpn_resnet50"))
    assert count == RESNET50 + pyramid + climbs + 128 * 21 + 21 == 28_478_933


@pytest.mark.parametrize(("name", "count"), [("pspnet_mini", 595_597), ("fpn_mini", 839_437)])
def test_mini_parameter_count_at_21_classes(name, count):
    assert size_of(build_on_meta(name)) == count


@pytest.mark.parametrize("name", MINIS)
def test_mini_learns_four_pictures_in_thirty_steps(name):
    torch.manual_seed(0)
    losses = losses_of_steps(create_model(name, CLASSES))
    assert losses[-1] < losses[0] / 2, losses


@pytest.mark.parametrize("name", MINIS)
@pytest.mark.parametrize("output_stride", [None, 8, 16, 32])
@pytest.mark.parametrize("size", [(33, 33), (65, 97), (64, 100)])
def test_logits_have_the_size_of_the_image(name, output_stride, size):
    model = create_model(name, 3, output_stride=output_stride).eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()
    assert logits.std() > 0


@pytest.mark.parametrize("name", ["pspnet_resnet50", "fpn_resnet50"])
@pytest.mark.parametrize("size", [(33, 33), (65, 97)])
def test_full_models_take_sizes_that_no_stride_divides(name, size):
    with torch.no_grad():
        logits = build_on_meta(name, 5).eval()(torch.empty(1, 3, *size, device="meta"))
    assert logits.shape == (1, 5, *size)


@pytest.mark.parametrize("name", MINIS)
def test_every_parameter_gets_a_finite_gradient(name):
    torch.manual_seed(0)
    assert parameters_without_finite_gradient(create_model(name, 5), torch.randn(2, 3, 96, 64)) == []


@pytest.mark.parametrize("name", MINIS)
def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode(name):
    model = loud(create_model(name, 5))
    images = torch.randn(3, 3, 65, 47)
    with torch.no_grad():
        alone = torch.cat([model(image[None]) for image in images])
        torch.testing.assert_close(model(images), alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", MINIS)
@pytest.mark.parametrize("output_stride", [0, 12, 64, "8"])
def test_impossible_output_stride_names_the_possible_ones(name, output_stride):
    with pytest.raises(ValueError, match=r"output_stride=.*not possible.*allow 4, 8, 16, 32"):
        create_model(name, output_stride=output_stride)


@pytest.mark.parametrize("name", MINIS)
def test_mini_trunk_has_no_pretrained_weights(name):
    with pytest.raises(ValueError, match=f"no ImageNet weights for the mini trunk.*{name[:3]}.*resnet50"):
        create_model(name, pretrained_backbone=True)


# PSPNet ---------------------------------------------------------------------------------------------------------


def test_pspnet_has_the_shapes_of_its_comments_at_the_papers_crop():
    model = build_on_meta("pspnet_resnet50")
    names = ["backbone", "pyramid", "mix", "classifier", *(f"pyramid.reduce.{i}" for i in range(4))]
    seen = shapes_on_meta(model, names, (473, 473))
    assert seen["backbone"][-1] == (2048, 60, 60)
    assert [seen[f"pyramid.reduce.{i}"] for i in range(4)] == [[(512, bins, bins)] for bins in (1, 2, 3, 6)]
    assert seen["pyramid"] == [(4096, 60, 60)]
    assert seen["mix"] == [(512, 60, 60)]
    assert seen["classifier"] == [(21, 60, 60)]
    assert seen["out"] == [(21, 473, 473)]


def grid_means(features: np.ndarray, bins: int) -> np.ndarray:
    """[C, bins, bins]: cell k covers the rows from floor(k h / bins) to ceil((k + 1) h / bins)."""

    def edges(length: int) -> list[slice]:
        return [slice(k * length // bins, -(-(k + 1) * length // bins)) for k in range(bins)]

    _, height, width = features.shape
    rows = [[features[:, y, x].mean(axis=(1, 2)) for x in edges(width)] for y in edges(height)]
    return np.moveaxis(np.array(rows), 2, 0)


@pytest.mark.parametrize("size", [(12, 18), (9, 13), (5, 4)])  # the last is smaller than the 6x6 grid
def test_pyramid_pooling_equals_grid_means_reduced_enlarged_and_put_behind_the_map(size):
    torch.manual_seed(0)
    module = loud(PyramidPooling(8, (1, 2, 3, 6)))
    features = torch.randn(1, 8, *size)
    with torch.no_grad():
        got = module(features)
    want = [features.double()]
    for bins, reduce in zip((1, 2, 3, 6), module.reduce, strict=True):
        convolution, norm, _ = reduce
        means = np.einsum("oc,chw->ohw", convolution.weight[:, :, 0, 0].detach().double().numpy(),
                          grid_means(features[0].double().numpy(), bins))  # fmt: skip
        mean, variance = norm.running_mean.numpy()[:, None, None], norm.running_var.numpy()[:, None, None]
        cells = np.maximum(0, (means - mean) / np.sqrt(variance + norm.eps))
        want.append(F.interpolate(torch.tensor(cells)[None], size=size, mode="bilinear", align_corners=False))
    torch.testing.assert_close(got.double(), torch.cat(want, 1), atol=1e-5, rtol=1e-5)
    assert got[:, 8:].std() > 0.01


def test_coarsest_bin_says_the_same_everywhere_and_the_finest_does_not():
    torch.manual_seed(0)
    got = loud(PyramidPooling(8))(torch.randn(2, 8, 12, 12)).detach()
    assert got.shape == (2, 16, 12, 12)
    torch.testing.assert_close(got[:, 8:10], got[:, 8:10, :1, :1].expand(-1, -1, 12, 12))
    assert got[:, 14:].std(dim=(2, 3)).min() > 0


def test_batch_of_one_in_training_is_refused_with_the_ways_out():
    model = create_model("pspnet_mini", 5).train()
    with pytest.raises(ValueError, match=r"batch has one image.*two or more.*bins=\(2, 3, 6\)"):
        model(torch.zeros(1, 3, 64, 64))
    model.eval()(torch.zeros(1, 3, 64, 64))
    create_model("pspnet_mini", 5, bins=(2, 3, 6)).train()(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize("bins", [(), (0, 2), (1, 2.5)])
def test_impossible_bins_are_refused(bins):
    with pytest.raises(ValueError, match=r"bins=.*whole numbers from 1, such as \(1, 2, 3, 6\)"):
        create_model("pspnet_mini", bins=bins)


# FPN ------------------------------------------------------------------------------------------------------------


def test_fpn_has_the_shapes_of_its_comments():
    model = build_on_meta("fpn_resnet50")
    seen = shapes_on_meta(model, ["backbone", "pyramid", "semantic", "semantic.climbs.3", "classifier"], (512, 512))
    assert seen["backbone"] == [(256, 128, 128), (512, 64, 64), (1024, 32, 32), (2048, 16, 16)]
    assert seen["pyramid"] == [(256, 128, 128), (256, 64, 64), (256, 32, 32), (256, 16, 16)]
    assert seen["semantic"] == [(128, 128, 128)]
    assert seen["classifier"] == [(21, 128, 128)]
    assert seen["out"] == [(21, 512, 512)]


@pytest.mark.parametrize("sides", [(32, 16, 8, 4), (33, 17, 9, 5), (25, 13, 7, 4), (32, 16, 16, 16)])
def test_feature_pyramid_equals_torchvisions(sides):
    from torchvision.ops import FeaturePyramidNetwork

    channels = (6, 8, 10, 12)
    theirs = FeaturePyramidNetwork(channels, 16)
    ours = FeaturePyramid(channels, 16)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for level in range(4):
            for mine, other in (
                (ours.lateral[level], theirs.inner_blocks[level][0]),
                (ours.smooth[level], theirs.layer_blocks[level][0]),
            ):
                for parameter in other.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
                mine.load_state_dict(other.state_dict())
        maps = [torch.randn(2, c, s, s + 3, generator=generator) for c, s in zip(channels, sides, strict=True)]
        want = list(theirs({str(level): features for level, features in enumerate(maps)}).values())
        got = ours(maps)
    for mine, other in zip(got, want, strict=True):
        torch.testing.assert_close(mine, other)


@given(half=st.integers(1, 40), odd=st.booleans())
@settings(max_examples=60, deadline=None)
def test_repeating_is_every_position_twice_cropped(half, odd):
    small = torch.arange(float(half)).view(1, 1, half, 1)
    side = 2 * half - odd
    got = repeat_features(small, (side, 1))[0, 0, :, 0]
    assert torch.equal(got, small.flatten().repeat_interleave(2)[:side])


def test_semantic_head_equals_panoptic_fpns_steps_of_three_by_three_and_doubling():
    """At sizes that double exactly, against the paper's figure 3 with layers that scale by a factor of two."""
    torch.manual_seed(0)
    head = SemanticHead(8, 12).eval()
    pyramid = [torch.randn(2, 8, side, 2 * side) for side in (32, 16, 8, 4)]
    with torch.no_grad():
        total = torch.zeros(2, 12, 32, 64)
        for doublings, (features, climb) in enumerate(zip(pyramid, head.climbs, strict=True)):
            x = features
            for step in range(max(1, doublings)):
                convolution, norm, _ = climb[step]
                x = F.conv2d(x, convolution.weight, padding=1)
                x = F.relu(F.group_norm(x, 3, norm.weight, norm.bias))
                if doublings:
                    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            total += x
        torch.testing.assert_close(head(pyramid), total, atol=1e-5, rtol=1e-5)


def test_every_level_reaches_the_logits():
    torch.manual_seed(0)
    model = create_model("fpn_mini", 5).eval()
    maps = []
    model.backbone.register_forward_hook(lambda module, args, out: maps.extend(out))
    logits = model(torch.randn(1, 3, 64, 64))
    gradients = torch.autograd.grad(logits.square().sum(), maps)
    assert [tuple(features.shape[2:]) for features in maps] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
