"""Panoptic-DeepLab, from instance maps to targets and back, and the panoptic quality that scores it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson import create_model
from deeplab_lesson.data import Scenes
from deeplab_lesson.metrics import PanopticQuality, panoptic_quality
from deeplab_lesson.models.panoptic_instances import (
    find_centers,
    group_pixels,
    majority_class,
    panoptic_loss,
    panoptic_loss_terms,
    panoptic_map,
    panoptic_targets,
)

THINGS = range(1, len(Scenes.classes))  # all but the background


def read_scenes(size: tuple[int, int], length: int, split: str = "val") -> tuple[Tensor, Tensor, Tensor]:
    scenes = Scenes(split, size, length=length, instances=True)
    images, labels, instances = zip(*(scenes.read(index) for index in range(length)), strict=True)
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 64 - 2
    return batch, torch.from_numpy(np.stack(labels)).long(), torch.from_numpy(np.stack(instances)).long()


def perfect_heads(labels: Tensor, instances: Tensor, num_classes: int) -> dict[str, Tensor]:
    """What heads say that have learned everything; on void, where nothing was learned, background."""
    out = F.one_hot(torch.where(labels == 255, 0, labels), num_classes).permute(0, 3, 1, 2).float()
    return {**panoptic_targets(instances), "out": out}


# targets and grouping ---------------------------------------------------------------------------------------------


def test_perfect_heads_give_back_the_instances_of_scenes():
    """The identity of the method: instance maps -> heads -> instance maps."""
    _, labels, instances = read_scenes((128, 128), 12)
    answer = panoptic_map(perfect_heads(labels, instances, 11), THINGS)
    truth = torch.stack([labels, instances], dim=-1)
    assert panoptic_quality(answer, truth, 11, things=THINGS).mean == 1.0
    for mine, theirs in zip(answer[..., 1], instances, strict=True):
        pairs = {(a, b) for a, b in zip(mine.flatten().tolist(), theirs.flatten().tolist(), strict=True)}
        assert len(pairs) == len(theirs.unique()), "one to one"
    assert instances.amax(dim=(1, 2)).min() >= 4, "there was something to tell apart"


def test_objects_with_one_center_become_one():
    """The limit of the method: a square in the middle of a frame. No offset can tell them apart."""
    instances = torch.ones(1, 41, 41, dtype=torch.int64)
    instances[:, 10:31, 10:31] = 0
    instances[:, 16:25, 16:25] = 2
    labels = torch.where(instances == 1, 2, torch.where(instances == 2, 1, 0))
    answer = panoptic_map(perfect_heads(labels, instances, 3), [1, 2])
    assert answer[..., 1].unique().tolist() == [0, 1]
    score = panoptic_quality(answer, torch.stack([labels, instances], -1), 3, things=[1, 2])
    assert score.false_negatives.tolist() == [0, 1, 0], "the smaller one is lost in the vote"
    assert score.quality[0] == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), boxes=st.integers(1, 8))
def test_objects_with_different_centers_are_told_apart(seed, boxes):
    generator = np.random.default_rng(seed)
    instances = torch.zeros(1, 40, 56, dtype=torch.int64)
    for number in range(1, boxes + 1):  # later ones cover earlier ones, which may fall into pieces
        top, left = generator.integers(0, 34), generator.integers(0, 50)
        height, width = generator.integers(1, 20, size=2)
        instances[:, top : top + height, left : left + width] = number
    targets = panoptic_targets(instances)
    ids = [number for number in instances.unique().tolist() if number]
    centers = {tuple(((instances[0] == i).nonzero().float().mean(0).round()).tolist()) for i in ids}
    found = find_centers(targets["center"][0, 0])
    assert {tuple(place) for place in found.float().tolist()} == centers
    grouped = group_pixels(found, targets["offset"][0], targets["thing"][0, 0])
    pairs = {(a, b) for a, b in zip(grouped.flatten().tolist(), instances.flatten().tolist(), strict=True) if b}
    assert (grouped == 0).equal(instances[0] == 0)
    assert len({a for a, _ in pairs}) == len(centers)
    if len(centers) == len(ids):
        assert len(pairs) == len(ids)


def test_targets_of_one_object_by_hand():
    instances = torch.zeros(1, 33, 33, dtype=torch.int32)
    instances[0, 10:15, 20:23] = 7
    targets = panoptic_targets(instances, sigma=8.0)
    assert targets["center"][0, 0, 12, 21] == 1
    torch.testing.assert_close(targets["center"][0, 0, 12, 29], torch.tensor(np.exp(-0.5), dtype=torch.float32))
    assert targets["offset"][0, :, 10, 22].tolist() == [2, -1]
    assert targets["offset"][0, :, 14, 20].tolist() == [-2, 1]
    assert targets["offset"][0, :, 0, 0].tolist() == [0, 0]
    assert int(targets["thing"].sum()) == 15
    empty = panoptic_targets(torch.zeros(1, 33, 33, dtype=torch.int64))
    assert not any(bool(target.any()) for target in empty.values())


def test_where_two_centers_meet_the_higher_value_counts():
    instances = torch.zeros(1, 33, 33, dtype=torch.int64)
    instances[0, 10, 10], instances[0, 10, 12] = 1, 2
    heat = panoptic_targets(instances)["center"][0, 0]
    assert heat[10, 10] == heat[10, 12] == heat.max() == 1
    assert heat[10, 11] < 1
    assert sorted(find_centers(heat).tolist()) == [[10, 10], [10, 12]]


def test_centers_are_the_highest_of_their_window_above_the_threshold():
    heat = torch.zeros(40, 40)
    heat[5, 5], heat[5, 8], heat[5, 30], heat[30, 5] = 0.9, 0.8, 0.5, 0.1
    assert find_centers(heat).tolist() == [[5, 5], [5, 30]], "(5, 8) is inside a 7x7 window of a higher one"
    assert find_centers(heat, kernel_size=5).tolist() == [[5, 5], [5, 8], [5, 30]]
    assert find_centers(heat, threshold=0.05).tolist() == [[5, 5], [5, 30], [30, 5]]
    assert find_centers(heat, most=1).tolist() == [[5, 5]]
    assert find_centers(torch.zeros(9, 9)).shape == (0, 2)


def test_pixels_go_to_the_center_nearest_to_where_they_point():
    thing = torch.ones(6, 9, dtype=torch.bool)
    thing[0] = False
    offset = torch.zeros(2, 6, 9)
    offset[1, :, 0] = 8.0  # the first column points to the right
    grouped = group_pixels(torch.tensor([[3, 1], [3, 7]]), offset, thing)
    assert grouped[1:].tolist() == [[2, 1, 1, 1, 1, 2, 2, 2, 2]] * 5  # a tie goes to the higher peak
    assert not grouped[0].any()


def test_majority_decides_the_class_of_an_instance_and_of_nothing_else():
    classes = torch.tensor([[1, 1, 2, 0], [2, 2, 1, 0]])
    instances = torch.tensor([[1, 1, 1, 0], [2, 2, 2, 0]])
    assert majority_class(classes, instances).tolist() == [[1, 1, 1, 0], [2, 2, 2, 0]]
    assert majority_class(classes, torch.zeros_like(instances)).equal(classes)


def test_thing_pixels_of_a_picture_without_a_center_become_void():
    out = torch.zeros(1, 2, 4, 6)
    out[:, 1, :, :3] = 1
    heads = {"out": out, "center": torch.zeros(1, 1, 4, 6), "offset": torch.zeros(1, 2, 4, 6)}
    answer = panoptic_map(heads, [1])
    assert (answer[0, :, :3, 0] == 255).all()
    assert (answer[0, :, 3:, 0] == 0).all()
    assert not answer[..., 1].any()


def test_instances_that_are_no_map_are_refused():
    with pytest.raises(ValueError, match=r"instances are torch.int64 \[33, 33\].*\[N, H, W\].*instances\[None\]"):
        panoptic_targets(torch.zeros(33, 33, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"torch.float32.*integers"):
        panoptic_targets(torch.zeros(1, 33, 33))


# the loss ---------------------------------------------------------------------------------------------------------


def test_loss_terms_by_hand():
    labels = torch.tensor([[[1, 1, 0, 255]]])
    targets = panoptic_targets(torch.tensor([[[1, 1, 0, 1]]]))
    heads = {
        "out": torch.zeros(1, 2, 1, 4),
        "center": targets["center"] + torch.tensor([0.1, 0.2, 0.3, 9.0]),
        "offset": targets["offset"] + torch.tensor([1.0, -3.0, 5.0, 9.0]),
    }
    terms = {key: value.item() for key, value in panoptic_loss_terms(heads, labels, targets).items()}
    assert terms["out"] == pytest.approx(np.log(2))
    assert terms["center"] == pytest.approx(200 * (0.01 + 0.04 + 0.09) / 3, rel=1e-5)
    assert terms["offset"] == pytest.approx(0.01 * (2 * 1 + 2 * 3) / 2), "only the two pixels of the object"
    assert panoptic_loss(heads, labels, targets).item() == pytest.approx(sum(terms.values()))


def test_perfect_centers_and_offsets_cost_nothing_and_an_empty_picture_is_no_nan():
    _, labels, instances = read_scenes((64, 64), 2)
    terms = panoptic_loss_terms(perfect_heads(labels, instances, 11), labels, panoptic_targets(instances))
    assert terms["center"] == terms["offset"] == 0
    void, none = torch.full_like(labels, 255), torch.zeros_like(instances)
    assert panoptic_loss(perfect_heads(labels, instances, 11), void, panoptic_targets(none)) == 0


# the network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("panoptic_deeplab_resnet50", {}, 29_943_560),
        ("panoptic_deeplab_resnet50", {"separable": False}, 54_974_216),
        ("panoptic_deeplab_mini", {}, 611_360),
        ("panoptic_deeplab_mini", {"separable": False}, 826_208),
    ],
)
def test_parameter_count_at_21_classes(name, options, count):
    with torch.device("meta"):
        model = create_model(name, 21, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_network_gives_the_shapes_that_its_comments_state():
    with torch.device("meta"):
        model = create_model("panoptic_deeplab_resnet50").eval()
    seen = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda m, i, out, key=name: seen.__setitem__(key, out) if isinstance(out, Tensor) else None
        )
    heads = model.forward_heads(torch.zeros(1, 3, 513, 513, device="meta"))
    shapes = {key: tuple(value.shape[1:]) for key, value in seen.items()}
    for branch, low8, channels in (("semantic", 64, 256), ("instance", 32, 128)):
        assert shapes[f"{branch}.aspp"] == (256, 33, 33)
        assert shapes[f"{branch}.to_stride8.reduce"] == (low8, 65, 65)
        assert shapes[f"{branch}.to_stride8"] == (channels, 65, 65)
        assert shapes[f"{branch}.to_stride4.reduce"] == (low8 // 2, 129, 129)
        assert shapes[branch] == (channels, 129, 129)
    assert model.semantic.to_stride8.mix[0][0].in_channels == 320
    assert [shapes[head] for head in ("classifier", "center", "offset")] == [
        (21, 129, 129), (1, 129, 129), (2, 129, 129),
    ]  # fmt: skip
    assert {key: tuple(value.shape) for key, value in heads.items()} == {
        "out": (1, 21, 513, 513),
        "center": (1, 1, 513, 513),
        "offset": (1, 2, 513, 513),
    }


@pytest.mark.parametrize("size", [(33, 33), (65, 97)])
@pytest.mark.parametrize("options", [{}, {"output_stride": 8}, {"output_stride": 32}, {"image_pooling": False}])
def test_heads_have_the_size_of_the_image_and_forward_gives_the_logits(size, options):
    model = create_model("panoptic_deeplab_mini", 5, **options).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        heads = model.forward_heads(images)
        torch.testing.assert_close(model(images), heads["out"])
    assert [tuple(heads[key].shape) for key in ("out", "center", "offset")] == [(2, n, *size) for n in (5, 1, 2)]


def test_offsets_are_in_pixels_of_the_image():
    model = create_model("panoptic_deeplab_mini", 5).eval()
    with torch.no_grad():
        model.offset[1].weight.zero_()
        model.offset[1].bias.copy_(torch.tensor([1.0, -2.0]))
        offset = model.forward_heads(torch.randn(1, 3, 65, 65))["offset"]
    torch.testing.assert_close(offset, torch.tensor([4.0, -8.0])[None, :, None, None].expand(1, 2, 65, 65))


def test_every_parameter_gets_a_finite_gradient():
    torch.manual_seed(0)
    model = create_model("panoptic_deeplab_mini", 11).train()
    images, labels, instances = read_scenes((64, 64), 2)
    panoptic_loss(model.forward_heads(images), labels, panoptic_targets(instances)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_logits_do_not_depend_on_the_instance_branch():
    torch.manual_seed(0)
    model = create_model("panoptic_deeplab_mini", 5).eval()
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    with_gradient = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"backbone", "semantic", "classifier"}


def test_pictures_of_a_batch_do_not_see_each_other_in_eval_mode():
    torch.manual_seed(0)
    model = create_model("panoptic_deeplab_mini", 5).train()
    images = torch.randn(3, 3, 65, 65)
    with torch.no_grad():
        model(images)
        together = model.eval().forward_heads(images)
        for index in range(3):
            alone = model.forward_heads(images[index : index + 1])
            for key, value in alone.items():
                torch.testing.assert_close(together[key][index : index + 1], value, atol=1e-4, rtol=1e-4)


def test_thirty_steps_on_four_scenes_halve_every_term_that_counts():
    torch.manual_seed(0)
    model = create_model("panoptic_deeplab_mini", 11).train()
    images, labels, instances = read_scenes((64, 64), 4, "train")
    targets = panoptic_targets(instances, sigma=4.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(30):
        optimizer.zero_grad()
        terms = panoptic_loss_terms(model.forward_heads(images), labels, targets)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        optimizer.step()
        history.append({"total": loss.item(), **{key: value.item() for key, value in terms.items()}})
    assert history[-1]["total"] < 0.5 * history[0]["total"]
    assert history[-1]["out"] < 0.5 * history[0]["out"]
    assert history[-1]["offset"] < 0.8 * history[0]["offset"]


def test_mini_has_no_pretrained_weights():
    with pytest.raises(ValueError, match=r"no ImageNet weights for the mini trunk.*panoptic_deeplab_resnet50"):
        create_model("panoptic_deeplab_mini", pretrained_backbone=True)


@pytest.mark.parametrize("name", ["panoptic_deeplab_mini", "panoptic_deeplab_resnet50"])
def test_impossible_output_stride_names_the_possible_ones(name):
    with pytest.raises(ValueError, match=r"output_stride=12 is not possible.*allow 4, 8, 16, 32"):
        create_model(name, output_stride=12)


# panoptic quality -------------------------------------------------------------------------------------------------


def pairs(*segments: tuple[int, int, int]) -> Tensor:
    """A map [1, W, 2] from (class, instance, number of pixels)."""
    return torch.tensor([[[c, i] for c, i, count in segments for _ in range(count)]])


def test_quality_by_hand():
    """Two things of class 1, one matched at 4/5, one missed by exactly 1/2; stuff 0 at 4/6; one invention."""
    truth = pairs((1, 1, 5), (1, 2, 4), (0, 0, 4), (2, 1, 2))
    answer = pairs((1, 8, 4), (0, 0, 1), (1, 9, 2), (0, 0, 6), (2, 5, 1), (2, 6, 1))
    score = panoptic_quality(answer, truth, 4, things=[1, 2])
    assert score.true_positives.tolist() == [1, 1, 0, 0]
    assert score.false_positives.tolist() == [0, 1, 2, 0]
    assert score.false_negatives.tolist() == [0, 1, 1, 0]
    assert score.quality[:3].tolist() == pytest.approx([4 / 7, (4 / 5) / 2, 0])
    assert score.segmentation_quality[:3].tolist() == pytest.approx([4 / 7, 4 / 5, 0])
    assert score.recognition_quality[:3].tolist() == pytest.approx([1, 1 / 2, 0])
    assert score.quality[3].isnan(), "absent on both sides"
    assert score.mean == pytest.approx((4 / 7 + 2 / 5) / 3)
    assert score.mean_things == pytest.approx((2 / 5) / 2)
    assert score.mean_stuff == pytest.approx(4 / 7), "class 3 does not occur"


def test_void_in_the_labels_counts_nowhere():
    truth = pairs((1, 1, 3), (255, 0, 5), (0, 0, 2))
    spills = pairs((1, 4, 8), (0, 0, 2))  # over all of the void
    assert panoptic_quality(spills, truth, 2, things=[1]).quality.tolist() == [1, 1]
    mostly_on_void = pairs((1, 4, 3), (1, 5, 5), (0, 0, 2))
    assert panoptic_quality(mostly_on_void, truth, 2, things=[1]).false_positives.tolist() == [0, 0]
    half_on_void = pairs((1, 4, 3), (1, 5, 1), (255, 0, 2), (1, 6, 4))
    assert panoptic_quality(half_on_void, truth, 2, things=[1]).false_positives.tolist() == [0, 1]


def test_void_in_the_answer_wins_nothing():
    truth = pairs((1, 1, 10))
    for answered, quality in ((10, 1.0), (6, 0.6), (5, 0.0), (0, 0.0)):
        score = panoptic_quality(pairs((1, 1, answered), (255, 0, 10 - answered)), truth, 2, things=[1])
        assert score.quality[1].item() == pytest.approx(quality)
        assert int(score.false_negatives[1]) == (quality == 0)


def test_segments_do_not_match_across_pictures():
    one, two = pairs((1, 1, 4), (0, 0, 4)), pairs((0, 0, 4), (1, 1, 4))
    score = panoptic_quality(torch.stack([one, two]), torch.stack([one, one]), 2, things=[1])
    assert score.true_positives.tolist() == [1, 1]
    again = PanopticQuality(2, things=[1])
    again.update(one, one)
    again.update(two, one)
    assert again.quality.equal(score.quality)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 100_000), things=st.sets(st.integers(0, 4)), noise=st.sampled_from([0.05, 0.3, 1.0]))
def test_quality_equals_torchmetrics(seed, things, noise):
    """Blocky truth with void, and an answer that differs on a share of its blocks; a class may be absent."""
    from torchmetrics.functional.detection import panoptic_quality as theirs

    generator = np.random.default_rng(seed)
    truth = np.stack([generator.choice([0, 1, 2, 3, 255], (3, 5, 6)), generator.integers(0, 3, (3, 5, 6))], axis=-1)
    answer = np.where(truth[..., :1] == 255, [2, 1], truth)
    other = np.stack([generator.integers(0, 4, (3, 5, 6)), generator.integers(0, 4, (3, 5, 6))], axis=-1)
    answer = np.where(generator.random((3, 5, 6, 1)) < noise, other, answer)
    truth, answer = (torch.from_numpy(a.repeat(3, axis=1).repeat(2, axis=2)) for a in (truth, answer))
    answer = answer.roll(int(generator.integers(0, 3)), dims=1)
    stuff = set(range(5)) - things
    want = theirs(answer, truth, things, stuff, allow_unknown_preds_category=False, return_sq_and_rq=True)
    by_class = theirs(answer, truth, things, stuff, return_per_class=True, return_sq_and_rq=True)
    score = panoptic_quality(answer, truth, 5, things=things)
    order = sorted(things) + sorted(stuff)
    mine = torch.stack([score.quality, score.segmentation_quality, score.recognition_quality], dim=1)[order]
    torch.testing.assert_close(mine.nan_to_num(), by_class.double())
    means = [mine[:, column].nanmean().item() for column in range(3)]
    assert means == pytest.approx(want.tolist(), nan_ok=True)
    assert score.mean == pytest.approx(want[0].item(), nan_ok=True)
    assert score.quality[4].isnan(), "class 4 never occurs"


def test_quality_of_the_truth_is_one_whatever_the_numbers_of_its_instances():
    _, labels, instances = read_scenes((64, 64), 3)
    renamed = torch.where(instances > 0, 1000 - instances, 0)
    truth, answer = torch.stack([labels, instances], -1), torch.stack([labels, renamed], -1)
    assert panoptic_quality(answer, truth, 11, things=THINGS).mean == 1


@pytest.mark.parametrize(
    ("answer", "truth", "error", "message"),
    [
        (torch.zeros(4, 4, 2), torch.zeros(4, 4, 2), TypeError, r"torch.float32.*integers"),
        (pairs((0, 0, 4)), pairs((0, 0, 5)), ValueError, r"\[1, 4, 2\] and labels \[1, 5, 2\].*torch.stack"),
        (pairs((0, 0, 4))[..., 0], pairs((0, 0, 4))[..., 0], ValueError, r"\(class, instance\) last"),
        (pairs((7, 0, 4)), pairs((0, 0, 4)), ValueError, r"predictions hold the class ids \[7\].*0 to 1 and 255"),
        (pairs((0, 0, 4)), pairs((-1, 0, 4)), ValueError, r"labels hold the class ids \[-1\]"),
    ],
)
def test_maps_that_cannot_be_scored_are_refused(answer, truth, error, message):
    with pytest.raises(error, match=message):
        panoptic_quality(answer, truth, 2, things=[1])


def test_things_outside_the_classes_are_refused():
    with pytest.raises(ValueError, match=r"things hold the ids \[2\]: allowed are 0 to 1"):
        PanopticQuality(2, things=[1, 2])
