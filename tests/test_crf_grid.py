"""Random fields on small grids: enumeration against other exact ways, approximate methods against enumeration."""

import copy
import doctest
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deeplab_lesson.crf import grid
from deeplab_lesson.crf.grid import Grid

SIZES = [(3, 3), (2, 3), (1, 5), (4, 1), (1, 1)]
SEQUENTIAL = ("checkerboard", "raster")
SWAP = [[[0.0, 0.1]], [[0.1, 0.0]]]  # two pixels, two labels: each pixel prefers another label, by little


def random_grid(seed: int, size: tuple[int, int] = (3, 3), num_classes: int = 3, *, kind: str = "any") -> Grid:
    """A field with weights of both signs and any penalties, or (kind "potts") with one weight of 1 and Potts."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    H, W = size
    unary = -normal(num_classes, H, W).log_softmax(dim=0)
    if kind == "potts":
        return Grid.potts(unary, 1.0)
    half = normal(num_classes, num_classes)
    return Grid(unary, normal(H, W - 1), normal(H - 1, W), half + half.T)


def random_tree(seed: int, size: tuple[int, int], num_classes: int = 3) -> Grid:
    """A field whose pairs of weight other than 0 join all pixels without a loop (Kruskal on a random order)."""
    field = random_grid(seed, size, num_classes)
    edges = [("horizontal", r, c, (r, c), (r, c + 1)) for r in range(size[0]) for c in range(size[1] - 1)]
    edges += [("vertical", r, c, (r, c), (r + 1, c)) for r in range(size[0] - 1) for c in range(size[1])]
    island = {pixel: pixel for pixel in itertools.product(range(size[0]), range(size[1]))}
    kept = 0
    for at in torch.randperm(len(edges), generator=torch.Generator().manual_seed(seed)).tolist():
        name, row, column, one, two = edges[at]
        if island[one] == island[two]:
            getattr(field, name)[row, column] = 0
        else:
            gone = island[two]
            island = {pixel: island[one] if at == gone else at for pixel, at in island.items()}
            kept += 1
    assert kept == size[0] * size[1] - 1
    return field


def slow_energy(field: Grid, labels: torch.Tensor) -> float:
    """The definition: every unordered pair of pixels, of which those at distance 1 count."""
    H, W = labels.shape
    pixels = list(itertools.product(range(H), range(W)))
    total = sum(field.unary[labels[r, c], r, c].item() for r, c in pixels)
    for (r, c), (s, d) in itertools.combinations(pixels, 2):
        if abs(r - s) + abs(c - d) == 1:
            table = field.horizontal if r == s else field.vertical
            total += (table[min(r, s), min(c, d)] * field.compatibility[labels[r, c], labels[s, d]]).item()
    return total


def log_partition_row_by_row(field: Grid, unary: torch.Tensor, reduce=torch.logsumexp) -> torch.Tensor:
    """Transfer matrices: a chain whose states are the labellings of a whole row. With amax instead: - lowest energy."""
    C, H, W = unary.shape
    rows = torch.tensor(list(itertools.product(range(C), repeat=W)))  # [S, W]
    scores = None
    for r in range(H):
        inside = unary[rows, r, torch.arange(W)].sum(dim=1)
        inside = inside + (field.horizontal[r] * field.compatibility[rows[:, :-1], rows[:, 1:]]).sum(dim=1)
        if scores is not None:
            between = (field.vertical[r - 1] * field.compatibility[rows[:, None], rows[None, :]]).sum(dim=2)
            scores = reduce(scores[:, None] - between, dim=0)
        scores = -inside if scores is None else scores - inside
    return reduce(scores, dim=0)


def all_labellings(field: Grid) -> torch.Tensor:
    C, H, W = field.unary.shape
    return torch.tensor(list(itertools.product(range(C), repeat=H * W))).reshape(-1, H, W)


def never_rises(values: list[float]) -> bool:
    return all(after <= before + 1e-12 * max(1, abs(before)) for before, after in itertools.pairwise(values))


fields = st.builds(
    random_grid,
    st.integers(0, 10_000),
    st.sampled_from(SIZES),
    st.integers(1, 3),
    kind=st.sampled_from(["any", "potts"]),
)


# energy ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(field=fields, seed=st.integers(0, 1000))
def test_energy_is_the_sum_over_unordered_pairs_at_distance_one(field, seed):
    C, H, W = field.unary.shape
    labels = torch.randint(C, (2, 4, H, W), generator=torch.Generator().manual_seed(seed))
    got = grid.energy(field, labels)
    want = [slow_energy(field, one) for one in labels.flatten(0, 1)]
    torch.testing.assert_close(got.flatten(), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert grid.energy(field, labels[0, 0]).shape == ()


def test_potts_costs_the_weight_times_the_number_of_neighbors_that_differ_each_pair_once():
    field = Grid.potts(torch.zeros(2, 3, 3), 0.7)
    chess = (torch.arange(3)[:, None] + torch.arange(3)) % 2
    assert grid.energy(field, chess).item() == pytest.approx(12 * 0.7, abs=1e-12)  # 3x3 has 12 pairs, not 24
    one = torch.zeros(3, 3, dtype=torch.int64)
    assert grid.energy(field, one).item() == 0
    one[0, 0] = 1
    assert grid.energy(field, one).item() == pytest.approx(2 * 0.7, abs=1e-12)


def test_unary_costs_are_minus_log_p_of_the_label_not_of_the_label_times_its_number():
    """Erratum E30: with p = (.7, .2, .1), - sum of Y log p(Y = c) would give label 0 the cost 0 whatever its p is."""
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    field = Grid.potts(-p.log()[:, None, None], 1.0)
    costs = [grid.energy(field, torch.tensor([[label]])).item() for label in range(3)]
    assert [round(cost, 2) for cost in costs] == [0.36, 1.61, 2.30]
    assert grid.brute_force(field).marginals[:, 0, 0].tolist() == pytest.approx(p.tolist(), abs=1e-12)


def test_labels_are_names_under_potts_and_magnitudes_under_their_product():
    """Erratum E29: - alpha Y_i Y_j gives 0 to two zeros, -60 to (3, 20) and -400 to (20, 20)."""
    pairs = [(0, 0), (3, 20), (20, 20)]
    potts = Grid.potts(torch.zeros(21, 1, 2), 1.0)
    names = torch.arange(21.0)
    product = Grid(torch.zeros(21, 1, 2), [[1.0]], torch.zeros(0, 2), -names[:, None] * names)
    assert [grid.energy(potts, torch.tensor([pair])).item() for pair in pairs] == [0, 1, 0]
    assert [grid.energy(product, torch.tensor([pair])).item() for pair in pairs] == [0, -60, -400]


# enumeration ----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(field=fields)
def test_enumeration_agrees_with_transfer_matrices_and_their_derivatives(field):
    """Row-by-row recursion gives log Z; its gradient by the unary is minus the marginals; max-plus gives the MAP."""
    exact = grid.brute_force(field)
    unary = field.unary.clone().requires_grad_()
    log_partition = log_partition_row_by_row(field, unary)
    (gradient,) = torch.autograd.grad(log_partition, unary)
    assert exact.log_partition == pytest.approx(log_partition.item(), abs=1e-10)
    torch.testing.assert_close(exact.marginals, -gradient, rtol=0, atol=1e-10)
    lowest = -log_partition_row_by_row(field, field.unary, torch.amax)
    assert exact.energy == pytest.approx(lowest.item(), abs=1e-10)
    assert slow_energy(field, exact.labels) == pytest.approx(exact.energy, abs=1e-10)


def test_enumeration_of_3x3_pixels_with_3_labels_is_a_sum_over_19683_labellings():
    """Erratum E28: what is modeled is the joint probability of all labels, so that these sum to 1."""
    field = random_grid(4)
    energies = grid.energy(field, all_labellings(field)).tolist()
    assert len(energies) == 3**9
    exact = grid.brute_force(field)
    assert math.fsum(math.exp(-cost - exact.log_partition) for cost in energies) == pytest.approx(1, abs=1e-10)
    assert min(energies) == pytest.approx(exact.energy, abs=1e-10)


def test_enumeration_refuses_what_is_too_large_and_says_how_large_it_is():
    with pytest.raises(ValueError, match=r"4x4 pixels with 3 labels have 43046721 labellings: .*at most 300000"):
        grid.brute_force(random_grid(0, (4, 4)))
    with pytest.raises(ValueError, match=r"have 8 labellings: .*at most 7; .*raise max_labellings"):
        grid.brute_force(random_grid(0, (1, 3), 2), max_labellings=7)
    assert grid.brute_force(random_grid(0, (1, 3), 2), max_labellings=8).labels.shape == (1, 3)


# what holds for each method ---------------------------------------------------------------------------------------


def answers(field: Grid) -> dict[str, torch.Tensor]:
    """What each method answers, by name: marginals, or labels."""
    return {
        "brute_force": grid.brute_force(field).marginals,
        "map": grid.brute_force(field).labels,
        "icm": grid.icm(field).labels,
        "mean_field": grid.mean_field(field).marginals,
        "parallel": grid.mean_field(field, order="parallel", max_sweeps=3).marginals,
        "sum_product": grid.belief_propagation(field, max_iterations=20).beliefs,
        "max_product": grid.belief_propagation(field, max_iterations=20, max_product=True).beliefs,
    }


def assert_same_answers(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    for name in want:
        torch.testing.assert_close(
            got[name], want[name], rtol=0, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", range(3))
def test_without_pairs_each_method_answers_with_the_softmax_of_the_unary(size, seed):
    unary = random_grid(seed, size).unary
    want = torch.softmax(-unary, dim=0)
    for name, answer in answers(Grid.potts(unary, 0.0)).items():
        if answer.is_floating_point():
            torch.testing.assert_close(answer, want, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert torch.equal(answer, want.argmax(dim=0)), name


@pytest.mark.parametrize("seed", range(6))
def test_renaming_the_labels_renames_the_answers(seed):
    field = random_grid(seed)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed + 100))
    renamed = Grid(field.unary[order], field.horizontal, field.vertical, field.compatibility[order][:, order])
    want = {
        name: answer[order] if answer.is_floating_point() else order.argsort()[answer]
        for name, answer in answers(field).items()
    }
    assert_same_answers(answers(renamed), want)
    potts = random_grid(seed, kind="potts")  # Potts needs no new penalties: no name is special
    assert_same_answers(
        {"map": grid.brute_force(Grid.potts(potts.unary[order], 1.0)).labels},
        {"map": order.argsort()[grid.brute_force(potts).labels]},
    )


@pytest.mark.parametrize("seed", range(6))
def test_rows_and_columns_are_treated_alike(seed):
    field = random_grid(seed, (2, 3))
    turned = Grid(field.unary.mT, field.vertical.mT, field.horizontal.mT, field.compatibility)
    assert_same_answers(answers(turned), {name: answer.mT for name, answer in answers(field).items()})


@pytest.mark.parametrize("seed", range(4))
def test_a_constant_at_a_pixel_changes_log_z_and_no_answer(seed):
    field = random_grid(seed, (2, 3))
    constants = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 5
    moved = Grid(field.unary + constants, field.horizontal, field.vertical, field.compatibility)
    assert_same_answers(answers(moved), answers(field))
    change = grid.brute_force(moved).log_partition - grid.brute_force(field).log_partition
    assert change == pytest.approx(-constants.sum().item(), abs=1e-10)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_marginals_sum_to_one_and_inputs_stay_as_they_were(size, num_classes):
    field = random_grid(1, size, num_classes)
    before = copy.deepcopy(vars(field))
    for name, answer in answers(field).items():
        if answer.is_floating_point():
            assert answer.shape == field.unary.shape
            torch.testing.assert_close(answer.sum(dim=0), torch.ones(size, dtype=torch.float64), msg=name)
        else:
            assert answer.dtype == torch.int64
            assert answer.shape == size
    assert all(torch.equal(vars(field)[name], before[name]) for name in before)


# ICM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", SEQUENTIAL)
@settings(max_examples=40, deadline=None)
@given(field=fields, seed=st.integers(0, 1000))
def test_icm_never_raises_the_energy_and_ends_where_no_single_change_lowers_it(order, field, seed):
    C, H, W = field.unary.shape
    start = torch.randint(C, (H, W), generator=torch.Generator().manual_seed(seed))
    found = grid.icm(field, start, order=order)
    assert found.converged
    assert never_rises(found.energies)
    assert found.energies[0] == pytest.approx(slow_energy(field, start), abs=1e-10)
    assert found.energies[-1] == pytest.approx(slow_energy(field, found.labels), abs=1e-10)
    assert found.energies[-1] >= grid.brute_force(field).energy - 1e-10
    for row, column, label in itertools.product(range(H), range(W), range(C)):
        changed = found.labels.clone()
        changed[row, column] = label
        assert slow_energy(field, changed) >= found.energies[-1] - 1e-10


@pytest.mark.parametrize("seed", range(5))
def test_icm_in_raster_order_is_a_loop_over_rows_and_columns(seed):
    field = random_grid(seed)
    labels = field.unary.argmin(dim=0)
    for row, column in itertools.product(range(3), range(3)):
        choices = []
        for label in range(3):
            labels[row, column] = label
            choices.append(slow_energy(field, labels))
        labels[row, column] = int(np.argmin(choices))
    found = grid.icm(field, order="raster", max_sweeps=1)
    assert torch.equal(found.labels, labels)
    assert len(found.energies) == 2


def test_icm_keeps_the_map_labelling_and_is_stuck_in_a_worse_minimum():
    """A row of four pixels in two halves: to change a half, two pixels would have to change at once."""
    unary = torch.tensor([[[0.0, 0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0, 0.2]]])
    field = Grid.potts(unary, 5.0)
    exact = grid.brute_force(field)
    assert exact.labels.tolist() == [[1, 1, 1, 1]] or exact.labels.tolist() == [[0, 0, 0, 0]]
    assert torch.equal(grid.icm(field, exact.labels).labels, exact.labels)
    stuck = grid.icm(field)
    assert stuck.labels.tolist() == [[0, 0, 1, 1]]
    assert stuck.energies[-1] > exact.energy + 1


@pytest.mark.parametrize("order", SEQUENTIAL)
def test_icm_keeps_a_label_that_is_as_cheap_as_another_but_for_rounding(order):
    flat = Grid.potts(torch.zeros(3, 3, 3), 0.0)
    start = torch.arange(9).reshape(3, 3) % 3
    assert torch.equal(grid.icm(flat, start, order=order).labels, start)
    costs = torch.tensor([[[0.1 + 0.2]], [[0.3]]], dtype=torch.float64)  # 0.30000000000000004 and 0.3
    assert grid.icm(Grid.potts(costs, 1.0), torch.zeros(1, 1, dtype=torch.int64), order=order).labels.item() == 0


# mean field -----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(field=fields, seed=st.integers(0, 1000))
def test_free_energy_is_the_divergence_from_p_minus_log_z(field, seed):
    """KL(Q || P) summed over every labelling, with Q the product of its pixels."""
    C, H, W = field.unary.shape
    logits = torch.randn(C, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    q = (2 * logits).softmax(dim=0)
    labellings = all_labellings(field)
    log_q = q[labellings, torch.arange(H)[:, None], torch.arange(W)].log().sum(dim=(1, 2))
    log_partition = grid.brute_force(field).log_partition
    log_p = -grid.energy(field, labellings) - log_partition
    divergence = (log_q.exp() * (log_q - log_p)).sum().item()
    assert divergence >= -1e-12
    assert grid.free_energy(field, q).item() == pytest.approx(divergence - log_partition, abs=1e-9)


def test_free_energy_of_certain_labels_is_their_energy():
    field = random_grid(3)
    labels = grid.brute_force(field).labels
    certain = F.one_hot(labels, 3).permute(2, 0, 1)
    assert grid.free_energy(field, certain).item() == pytest.approx(grid.energy(field, labels).item(), abs=1e-12)


@pytest.mark.parametrize("order", SEQUENTIAL)
@settings(max_examples=40, deadline=None)
@given(field=fields)
def test_sequential_mean_field_never_raises_the_free_energy_and_stays_above_minus_log_z(order, field):
    found = grid.mean_field(field, order=order, max_sweeps=30)
    assert never_rises(found.free_energies)
    assert found.free_energies[-1] >= -grid.brute_force(field).log_partition - 1e-10
    assert found.free_energies[-1] == pytest.approx(grid.free_energy(field, found.marginals).item(), abs=1e-12)
    assert torch.equal(found.labels, found.marginals.argmax(dim=0))


@pytest.mark.parametrize("order", SEQUENTIAL)
@pytest.mark.parametrize("seed", range(5))
def test_mean_field_ends_in_its_own_fixed_point(order, seed):
    field = random_grid(seed, kind="potts")
    found = grid.mean_field(field, order=order, max_sweeps=1000)
    assert found.converged
    q = found.marginals
    for row, column, label in itertools.product(range(3), range(3), range(3)):
        around = [(row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)]
        agree = sum(q[:, r, c] for r, c in around if 0 <= r < 3 and 0 <= c < 3)  # Potts, weight 1
        want = torch.softmax(-field.unary[:, row, column] + agree, dim=0)[label]
        assert q[label, row, column].item() == pytest.approx(want.item(), abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_a_checkerboard_sweep_is_one_pixel_after_another_blacks_first(seed):
    field = random_grid(seed)
    q = torch.softmax(-field.unary, dim=0)
    pixels = sorted(itertools.product(range(3), range(3)), key=lambda pixel: sum(pixel) % 2)
    for row, column in pixels:
        q[:, row, column] = torch.softmax(-field.unary - field.neighbor_costs(q), dim=0)[:, row, column]
    torch.testing.assert_close(grid.mean_field(field, max_sweeps=1).marginals, q, rtol=0, atol=1e-12)


def test_parallel_mean_field_swings_for_ever_where_sequential_mean_field_settles():
    """Two pixels that want different labels, tied strongly: each keeps taking what the other has just left."""
    field = Grid.potts(SWAP, 3.0)
    parallel = grid.mean_field(field, order="parallel", max_sweeps=500)
    assert not parallel.converged
    assert parallel.free_energies[10] > parallel.free_energies[0] + 1, "the free energy rises"
    once_more = grid.mean_field(field, parallel.marginals, order="parallel", max_sweeps=1).marginals
    twice_more = grid.mean_field(field, parallel.marginals, order="parallel", max_sweeps=2).marginals
    assert (once_more - parallel.marginals).abs().max() > 0.8
    torch.testing.assert_close(twice_more, parallel.marginals, rtol=0, atol=1e-9)
    for order in SEQUENTIAL:
        settled = grid.mean_field(field, order=order)
        assert settled.converged
        assert settled.free_energies[-1] < parallel.free_energies[0]
        assert (settled.labels == settled.labels[0, 0]).all(), "strongly tied pixels agree"


def test_parallel_mean_field_swings_on_2x2_pixels_whose_neighbors_prefer_to_differ():
    field = Grid.potts(torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.1, 0.2], [0.3, 0.4]]]), -4.0)
    parallel = grid.mean_field(field, order="parallel", max_sweeps=201)
    assert not parallel.converged
    assert not never_rises(parallel.free_energies)
    assert len(set(parallel.labels.flatten().tolist())) == 1, "all four alike, which is what they like least"
    settled = grid.mean_field(field)
    assert settled.converged
    assert settled.labels.tolist() == [[1, 0], [0, 1]]


def test_mean_field_breaks_a_symmetry_that_the_marginals_have():
    """Labels 0 and 1 are interchangeable, so that every marginal is 1/2; strong mean field picks a side."""
    field = Grid.potts(torch.zeros(2, 3, 3), 2.0)
    start = torch.stack([torch.full((3, 3), 0.6), torch.full((3, 3), 0.4)])
    assert grid.brute_force(field).marginals.numpy() == pytest.approx(0.5, abs=1e-12)
    assert grid.mean_field(field, start).marginals[0].min() > 0.95
    assert grid.mean_field(field, start.flip(0)).marginals[1].min() > 0.95
    assert grid.mean_field(field).marginals.numpy() == pytest.approx(0.5, abs=1e-12)


# belief propagation ---------------------------------------------------------------------------------------------


def max_marginals(field: Grid) -> torch.Tensor:
    """The probability of the best labelling that has label l at pixel i, scaled to sum 1 over l, by enumeration."""
    labellings = all_labellings(field)
    energies = grid.energy(field, labellings)
    C, H, W = field.unary.shape
    lowest = torch.empty(C, H, W, dtype=torch.float64)
    for label, row, column in itertools.product(range(C), range(H), range(W)):
        lowest[label, row, column] = energies[labellings[:, row, column] == label].min()
    return (-lowest).softmax(dim=0)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1), (2, 3), (3, 3), (2, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_belief_propagation_is_exact_on_a_chain_and_on_a_tree(size, seed):
    field = random_tree(seed, size, 2 if size == (2, 4) else 3)
    exact = grid.brute_force(field)
    summed = grid.belief_propagation(field)
    torch.testing.assert_close(summed.beliefs, exact.marginals, rtol=0, atol=1e-10)
    best = grid.belief_propagation(field, max_product=True)
    torch.testing.assert_close(best.beliefs, max_marginals(field), rtol=0, atol=1e-10)
    assert torch.equal(best.labels, exact.labels)
    for found in (summed, best):
        assert found.converged
        # No path in a tree has more edges than there are pixels less one; the last round finds that nothing changes.
        assert found.iterations <= size[0] * size[1]


def test_on_a_chain_a_message_needs_a_round_for_each_edge():
    """Only the first pixel of five knows something; the last one hears of it in the fourth round."""
    unary = torch.zeros(2, 1, 5, dtype=torch.float64)
    unary[1, 0, 0] = 3
    field = Grid.potts(unary, 1.0)
    last = [grid.belief_propagation(field, max_iterations=n).beliefs[0, 0, 4].item() for n in range(6)]
    assert last[:4] == pytest.approx([0.5] * 4, abs=1e-12)
    assert last[4] == pytest.approx(grid.brute_force(field).marginals[0, 0, 4].item(), abs=1e-12)
    assert last[4] > 0.51
    assert last[5] == last[4]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_product", [False, True])
def test_damped_messages_settle_at_the_same_beliefs_more_slowly(seed, max_product):
    field = random_tree(seed, (3, 3))
    plain = grid.belief_propagation(field, max_product=max_product)
    damped = grid.belief_propagation(field, max_product=max_product, damping=0.5)
    assert damped.converged
    assert damped.iterations > plain.iterations
    torch.testing.assert_close(damped.beliefs, plain.beliefs, rtol=0, atol=1e-9)


def test_damping_calms_messages_that_swing_on_loops():
    """Black squares prefer label 1, white ones 0, and all are tied strongly: the two colors trade their labels."""
    chess = (torch.arange(3)[:, None] + torch.arange(3)) % 2
    field = Grid.potts(torch.stack([1 - chess, chess]) * 0.5, 4.0)
    plain = grid.belief_propagation(field, max_iterations=500)
    assert not plain.converged
    assert plain.iterations == 500
    damped = grid.belief_propagation(field, damping=0.5)
    assert damped.converged
    marginals = grid.brute_force(field).marginals
    assert (damped.beliefs - marginals).abs().max() < (plain.beliefs - marginals).abs().max()


def test_on_3x3_grids_beliefs_are_nearer_the_marginals_than_mean_field():
    """Erratum E33, on 20 random fields with Potts weight 1: loopy BP has no guarantee, and is the better one here."""
    worst: dict[str, list[float]] = {"mean field": [], "beliefs": []}
    for seed in range(20):
        field = random_grid(seed, kind="potts")
        marginals = grid.brute_force(field).marginals
        worst["mean field"].append((grid.mean_field(field).marginals - marginals).abs().max().item())
        worst["beliefs"].append((grid.belief_propagation(field).beliefs - marginals).abs().max().item())
    mean = {name: float(np.mean(errors)) for name, errors in worst.items()}
    assert mean["mean field"] > 0.1, mean
    assert mean["beliefs"] < 0.04, mean
    assert all(b < m for b, m in zip(worst["beliefs"], worst["mean field"], strict=True))


def test_of_the_methods_only_enumeration_always_finds_the_lowest_energy():
    """What each method decodes, on 20 random 3x3 fields with Potts weight 1, is never below the true minimum."""
    hits = dict.fromkeys(("icm", "mean field", "max-product"), 0)
    for seed in range(20):
        field = random_grid(seed, kind="potts")
        lowest = grid.brute_force(field).energy
        decoded = {
            "icm": grid.icm(field).labels,
            "mean field": grid.mean_field(field).labels,
            "max-product": grid.belief_propagation(field, max_product=True).labels,
        }
        for name, labels in decoded.items():
            found = grid.energy(field, labels).item()
            assert found >= lowest - 1e-10
            hits[name] += found < lowest + 1e-10
    assert hits["icm"] < 20
    assert hits["mean field"] < 20
    assert hits["max-product"] > max(hits["icm"], hits["mean field"])


def test_strong_fields_stay_finite():
    """Costs of a thousand, where exp(-E) is 0 in float64."""
    field = Grid.potts(1000 * random_grid(2).unary, 400.0)
    for name, answer in answers(field).items():
        assert answer.isfinite().all(), name
    assert math.isfinite(grid.brute_force(field).log_partition)
    assert math.isfinite(grid.mean_field(field).free_energies[-1])


# constructors ---------------------------------------------------------------------------------------------------


def test_contrast_sensitive_weights_fall_with_the_color_difference():
    image = torch.tensor([[[10, 20, 250]], [[0, 0, 0]], [[5, 5, 5]]], dtype=torch.uint8)  # [3, 1, 3]
    field = Grid.contrast_sensitive(torch.zeros(2, 1, 3), image, weight=3.0, sigma_rgb=10.0)
    want = [3 * math.exp(-(10**2) / 200), 3 * math.exp(-(230**2) / 200)]
    assert field.horizontal[0].tolist() == pytest.approx(want, rel=1e-12)
    darker = Grid.contrast_sensitive(torch.zeros(2, 1, 3), image.flip(2), weight=3.0, sigma_rgb=10.0)
    assert torch.equal(darker.horizontal, field.horizontal.flip(1)), "uint8 must not wrap around"
    turned = Grid.contrast_sensitive(torch.zeros(2, 3, 1), image.mT, weight=3.0, sigma_rgb=10.0)
    assert torch.equal(turned.vertical, field.horizontal.mT)


def test_a_picture_of_one_color_gives_potts_and_an_edge_keeps_a_boundary_that_potts_smooths_away():
    unary = -torch.tensor([[[0.4, 0.8, 0.8]], [[0.6, 0.2, 0.2]]]).log()
    potts = Grid.potts(unary, 1.0)
    flat = Grid.contrast_sensitive(unary, torch.full((3, 1, 3), 77.0), 1.0, 5.0)
    assert torch.equal(flat.horizontal, potts.horizontal)
    edge = Grid.contrast_sensitive(unary, torch.tensor([[[0.0, 200.0, 200.0]]]), 1.0, 5.0)
    assert grid.brute_force(potts).labels.tolist() == [[0, 0, 0]]
    assert grid.brute_force(edge).labels.tolist() == [[1, 0, 0]]


def test_lists_arrays_and_float32_are_computed_in_float64():
    unary = [[[0.1, 0.3]], [[0.7, 0.2]]]
    from_list = Grid.potts(unary, 0.7)
    assert from_list.unary.dtype == torch.float64
    assert from_list.unary.tolist() == unary, "0.1 is 0.1, not the nearest float32"
    assert from_list.horizontal.tolist() == [[0.7]]
    from_numpy = Grid(np.array(unary), [[0.7]], np.zeros((0, 2)), np.array([[0, 1], [1, 0]]))
    assert grid.brute_force(from_numpy).log_partition == grid.brute_force(from_list).log_partition
    assert Grid.potts(torch.tensor(unary), 1).unary.dtype == torch.float64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_answers():
    field = random_grid(0)
    there = Grid(field.unary.cuda(), field.horizontal, field.vertical, field.compatibility)
    got = answers(there)
    assert all(answer.is_cuda for answer in got.values())
    assert_same_answers({name: answer.cpu() for name, answer in got.items()}, answers(field))
    assert grid.icm(there, torch.zeros(3, 3, dtype=torch.int64), order="raster").labels.is_cuda


def test_the_example_of_the_docstring():
    outcome = doctest.testmod(grid, extraglobs={"torch": torch})
    assert outcome.attempted > 0
    assert outcome.failed == 0


# bad inputs -----------------------------------------------------------------------------------------------------

U = torch.zeros(2, 3, 4)
RIGHT, DOWN = torch.ones(3, 3), torch.ones(2, 4)
nan, inf = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Grid.potts(U[0], 1.0), r"unary is \[3, 4\]: allowed is \[C, H, W\]"),
        (lambda: Grid.potts(U[:0], 1.0), r"unary is \[0, 3, 4\]: allowed is .* at least one"),
        (lambda: Grid(U, DOWN, RIGHT), r"horizontal is \[2, 4\] and unary \[2, 3, 4\]: .*\[3, 3\]; Grid\.potts"),
        (lambda: Grid(U, RIGHT, RIGHT), r"vertical is \[3, 3\] and unary \[2, 3, 4\]: .*\[2, 4\]"),
        (lambda: Grid(U, 1.0, 1.0), r"horizontal is \[\] and unary"),
        (lambda: Grid(U, RIGHT, DOWN, torch.eye(3)), r"compatibility is \[3, 3\] and unary \[2, 3, 4\]: .*\[2, 2\]"),
        (lambda: Grid(U, RIGHT, DOWN, torch.ones(2)), r"compatibility is \[2\] and unary .*\[2, 2\]"),
        (
            lambda: Grid(U, RIGHT, DOWN, [[0.0, 1.0], [2.0, 0.0]]),
            r"is 1 for the labels \(0, 1\) and 2 for \(1, 0\): .*make it symmetric",
        ),
        (
            lambda: Grid.potts([[[0.0, inf]], [[nan, 0.0]]], 1.0),
            r"unary has 2 values that are not finite, the first at \[0, 0, 1\]: .*clamp_min",
        ),
        (lambda: Grid.potts(U, nan), r"horizontal has 9 values that are not finite, the first at \[0, 0\]: .*numbers$"),
        (lambda: Grid(U, RIGHT, DOWN, [[0.0, inf], [inf, 0.0]]), r"compatibility has 2 values that are not finite"),
        (lambda: Grid.contrast_sensitive(U, torch.zeros(3, 4, 3), 1, 5), r"image is \[3, 4, 3\] and unary \[2, 3, 4\]"),
        (lambda: Grid.contrast_sensitive(U, torch.zeros(3, 4), 1, 5), r"image is \[3, 4\] and unary .*permute"),
        (lambda: Grid.contrast_sensitive(U, torch.full((1, 3, 4), nan), 1, 5), r"image has 12 values .* not finite"),
        (lambda: Grid.contrast_sensitive(U, torch.zeros(1, 3, 4), 1, 0), r"sigma_rgb=0: allowed are numbers above 0"),
        (lambda: Grid.contrast_sensitive(U, torch.zeros(1, 3, 4), 1, nan), r"sigma_rgb=nan: allowed"),
    ],
)
def test_tables_that_do_not_fit_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


FIELD = Grid(U, RIGHT, DOWN)
HALVES = torch.full((2, 3, 4), 0.5)
ZEROS = torch.zeros(3, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: grid.energy(FIELD, ZEROS.T),
            r"labels are \[4, 3\] and unary \[2, 3, 4\]: allowed is \[\.\.\., 3, 4\]",
        ),
        (lambda: grid.energy(FIELD, ZEROS + 255), r"labels hold \[255\]: allowed are 0 to 1; void"),
        (lambda: grid.energy(FIELD, ZEROS - 1), r"labels hold \[-1\]: allowed are 0 to 1"),
        (lambda: grid.icm(FIELD, ZEROS[None]), r"start is \[1, 3, 4\]: allowed is one labelling, \[3, 4\]"),
        (lambda: grid.icm(FIELD, ZEROS + 2), r"labels hold \[2\]"),
        (lambda: grid.icm(FIELD, order="parallel"), r"order='parallel': allowed are checkerboard, raster; .*may rise"),
        (lambda: grid.icm(FIELD, max_sweeps=-1), r"max_sweeps=-1: allowed are whole numbers from 0"),
        (lambda: grid.mean_field(FIELD, max_sweeps=True), r"max_sweeps=True: allowed are whole numbers"),
        (
            lambda: grid.mean_field(FIELD, order="random"),
            r"order='random': allowed are checkerboard, raster, parallel$",
        ),
        (lambda: grid.mean_field(FIELD, tolerance=-1e-9), r"tolerance=-1e-09: allowed are numbers from 0"),
        (lambda: grid.mean_field(FIELD, HALVES[:, :2]), r"marginals are \[2, 2, 4\] and unary \[2, 3, 4\]"),
        (lambda: grid.mean_field(FIELD, HALVES * 1.5), r"sum is off 1 by up to 0\.5: .*softmax\(dim=0\)"),
        (lambda: grid.free_energy(FIELD, torch.stack([HALVES[0] * 4, -HALVES[0] * 2])), r"lowest marginal is -1,"),
        (lambda: grid.free_energy(FIELD, HALVES * nan), r"lowest marginal is nan"),
        (lambda: grid.belief_propagation(FIELD, damping=1.0), r"damping=1\.0: allowed are numbers from 0 to below 1"),
        (lambda: grid.belief_propagation(FIELD, damping=-0.1), r"damping=-0\.1: allowed"),
        (lambda: grid.belief_propagation(FIELD, max_iterations=-2), r"max_iterations=-2: allowed"),
        (lambda: grid.belief_propagation(FIELD, tolerance=nan), r"tolerance=nan: allowed"),
    ],
)
def test_calls_that_make_no_sense_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("labels", [ZEROS.double(), ZEROS.bool()])
def test_labels_that_are_no_integers_are_refused(labels):
    with pytest.raises(TypeError, match=rf"labels are {labels.dtype}: allowed are class ids"):
        grid.energy(FIELD, labels)


def test_no_sweep_returns_the_start():
    field = random_grid(0)
    assert torch.equal(grid.icm(field, max_sweeps=0).labels, field.unary.argmin(dim=0))
    nothing = grid.mean_field(field, max_sweeps=0)
    torch.testing.assert_close(nothing.marginals, torch.softmax(-field.unary, dim=0))
    assert len(nothing.free_energies) == 1
    assert not nothing.converged
    silent = grid.belief_propagation(field, max_iterations=0)
    torch.testing.assert_close(silent.beliefs, nothing.marginals)
    assert (silent.iterations, silent.converged) == (0, False)
