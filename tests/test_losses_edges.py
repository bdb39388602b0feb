"""The edge loss: edges of labels and of probabilities from one operator, compared pair by pair."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_batches import VOID, batch, one_hot_logits

from deeplab_lesson.data import Scenes
from deeplab_lesson.losses import edge_logits, edge_loss


def loss_by_hand(logits: torch.Tensor, labels: torch.Tensor, distance: int, criterion: str) -> tuple[float, int]:
    """The sum over the pairs, each pair's two classes drawn in every way there is, and the number of pairs."""
    p = logits.softmax(dim=1).tolist()
    total, pairs = 0.0, 0
    pictures, classes, height, width = logits.shape
    for n, y, x in itertools.product(range(pictures), range(height), range(width)):
        for y2, x2 in ((y + distance, x), (y, x + distance)):
            if y2 >= height or x2 >= width or VOID in (first := int(labels[n, y, x]), second := int(labels[n, y2, x2])):
                continue
            draws = itertools.product(range(classes), repeat=2)
            edge = sum(p[n][a][y][x] * p[n][b][y2][x2] for a, b in draws if a != b)
            true = first != second
            total += (edge - true) ** 2 / 2 if criterion == "squared" else -math.log(edge if true else 1 - edge)
            pairs += 1
    return total, pairs


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    distance=st.integers(1, 4),
    criterion=st.sampled_from(["cross_entropy", "squared"]),
    channels=st.integers(2, 4),
)
def test_loss_equals_the_sum_over_pairs_and_draws_by_hand(
    seed: int, distance: int, criterion: str, channels: int
) -> None:
    logits, labels = batch(channels, (2, 4, 5), seed=seed, dtype=torch.float64)
    total, pairs = loss_by_hand(logits, labels, distance, criterion)
    options = {"distance": distance, "criterion": criterion}
    assert edge_loss(logits, labels, reduction="sum", **options).item() == pytest.approx(total)
    assert edge_loss(logits, labels, **options).item() == pytest.approx(total / max(pairs, 1))


def test_the_articles_example_is_1_5_as_a_sum() -> None:
    true = torch.tensor([[[0, 1, 1, 1, 0, 0]]])  # edges 1 0 0 1 0
    said = torch.tensor([[[0, 0, 1, 1, 0, 1]]])  # edges 0 1 0 1 1: they differ by 1, 1, 0, 0, 1
    loss = edge_loss(one_hot_logits(said, 2), true, distance=1, criterion="squared", reduction="sum")
    assert loss.item() == 1.5


@pytest.mark.parametrize("distance", [1, 2])
def test_operator_finds_exactly_the_edges_of_a_label_map(distance: int) -> None:
    classes = torch.randint(0, 4, (2, 6, 7), generator=torch.Generator().manual_seed(0))
    in_rows, in_columns = edge_logits(one_hot_logits(classes, 4), distance)
    assert torch.equal(in_rows.sigmoid(), (classes[:, :, distance:] != classes[:, :, :-distance]).float())
    assert torch.equal(in_columns.sigmoid(), (classes[:, distance:] != classes[:, :-distance]).float())


@pytest.mark.parametrize("criterion", ["cross_entropy", "squared"])
def test_right_edges_cost_nothing_whatever_the_classes_are_called(criterion: str) -> None:
    labels = torch.randint(0, 4, (2, 6, 7), generator=torch.Generator().manual_seed(0))
    assert edge_loss(one_hot_logits(labels, 4), labels, criterion=criterion).item() == 0
    assert edge_loss(one_hot_logits((labels + 1) % 4, 4), labels, criterion=criterion).item() == 0


def test_sure_and_wrong_answer_still_has_a_gradient() -> None:
    labels = torch.tensor([[[0, 1]]])
    logits = one_hot_logits(torch.zeros_like(labels), 2, height=1000).requires_grad_()
    loss = edge_loss(logits, labels, distance=1)
    loss.backward()
    assert loss.item() == pytest.approx(1000, rel=1e-3)
    assert logits.grad.abs().max() > 0.1


@pytest.mark.parametrize("turn", [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: x.transpose(-1, -2)])
def test_flipped_or_transposed_pictures_cost_the_same(turn) -> None:
    logits, labels = batch()
    for criterion in ("cross_entropy", "squared"):
        found = edge_loss(turn(logits), turn(labels), criterion=criterion)
        torch.testing.assert_close(found, edge_loss(logits, labels, criterion=criterion))


def test_void_contours_of_the_scenes_hide_every_edge_at_distance_1_and_none_at_2() -> None:
    scenes = Scenes("train", (64, 64), length=3)
    for index in range(3):
        label = torch.from_numpy(scenes.read(index)[1]).long()[None]
        nothing_said = torch.zeros(1, len(Scenes.classes), 64, 64)
        all_background = nothing_said.clone()
        all_background[:, 0] = 1e4
        assert edge_loss(all_background, label, distance=1).item() == pytest.approx(0, abs=1e-6)
        assert edge_loss(all_background, label).item() > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": 0}, r"distance=0: allowed are whole numbers of pixels from 1"),
        ({"criterion": "mse"}, r"criterion='mse'.*'cross_entropy' and 'squared'"),
        ({"reduction": "none"}, r"reduction='none'.*'mean' and 'sum'"),
    ],
)
def test_unknown_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edge_loss(*batch(), **options)


def test_operator_refuses_one_channel() -> None:
    with pytest.raises(ValueError, match=r"logits are \[1, 1, 4, 4\]: .*two classes or more"):
        edge_logits(torch.zeros(1, 1, 4, 4))
