"""Gradients through mean field, DenseCRF as a layer of a network, and the search of its parameters."""

import copy
import itertools
from typing import Any

import pytest
import torch
from test_crf_dense import NORMALIZATIONS, noise, random_penalties, scene
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.crf import PRESETS, DenseCRF, free_energy, mean_field, tune
from deeplab_lesson.metrics import ConfusionMatrix

SMALL: dict[str, Any] = {
    "appearance_weight": 1.5,
    "appearance_sigma_xy": 4.0,
    "appearance_sigma_rgb": 60.0,
    "smoothness_weight": 0.8,
    "smoothness_sigma_xy": 1.5,
    "iterations": 3,
}
KERNELS = [
    (appearance, smoothness, normalization)
    for appearance, smoothness, normalization in itertools.product(
        ("lattice", "grid", "attention", "exact"), ("exact", "lattice"), NORMALIZATIONS
    )
    if appearance != "attention" or normalization == "after"
]
every_kernel = pytest.mark.parametrize(("appearance", "smoothness", "normalization"), KERNELS)


# ---- gradients


@every_kernel
def test_gradients_of_logits_weights_and_penalties_equal_finite_differences(appearance, smoothness, normalization):
    logits, images = noise(0, count=2, height=3, width=4)
    kernels = {"appearance": appearance, "smoothness": smoothness, "normalization": normalization}
    crf = DenseCRF(3, trainable=True, **{**SMALL, "iterations": 2}, **kernels).double()

    def forward(logits: Tensor, weights: Tensor, compatibility: Tensor) -> Tensor:
        state = {"weights": weights, "compatibility": compatibility}
        return torch.func.functional_call(crf, state, (logits, images))

    compatibility = random_penalties(1, 3).requires_grad_()
    weights = crf.weights.detach().clone().requires_grad_()
    inputs = (logits.requires_grad_(), weights, compatibility)
    every_entry = (appearance, smoothness) == ("lattice", "exact")  # elsewhere along random directions, which is quick
    assert torch.autograd.gradcheck(forward, inputs, fast_mode=not every_entry)


def test_gradients_reach_penalties_that_are_given_to_mean_field():
    logits, images = noise(0)
    compatibility = random_penalties(1, 3)

    def forward(half: Tensor) -> Tensor:
        return mean_field(logits, images, compatibility=half + half.T, **SMALL)

    assert torch.autograd.gradcheck(forward, (compatibility.requires_grad_(),))


def test_gradients_of_the_free_energy_equal_finite_differences():
    logits, images = noise(0)
    marginals = noise(1)[0].softmax(1)
    for normalization in NORMALIZATIONS:
        parameters = {**SMALL, "normalization": normalization}
        assert torch.autograd.gradcheck(
            lambda q, scores, given=parameters: free_energy(q, scores, images, **given),
            (marginals.requires_grad_(), logits.requires_grad_()),
            fast_mode=True,
        )


@every_kernel
def test_a_float32_gradient_comes_back_through_marginals_and_log_marginals(appearance, smoothness, normalization):
    # torch's backward pass of a softmax over the last dimension fails on a permuted gradient; labels come first instead
    logits, image, label = scene(0, 17, 23)
    kernels = {"appearance": appearance, "smoothness": smoothness, "normalization": normalization}
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        marginals = mean_field(leaf, image, **SMALL, **kernels)
        F.nll_loss(marginals.log(), label).backward()
        gradients.append(leaf.grad.double())
        crf, leaf = DenseCRF(4, **SMALL, **kernels), logits.to(dtype, copy=True).requires_grad_()
        F.nll_loss(crf(leaf, image), label).backward()
        gradients.append(leaf.grad.double())
    for gradient in gradients:
        torch.testing.assert_close(gradient, gradients[-1], rtol=1e-3, atol=1e-6)


@every_kernel
@pytest.mark.parametrize("potts", [True, False])
def test_inference_in_place_equals_the_path_with_gradients(appearance, smoothness, normalization, potts):
    logits, image, _ = scene(1, 30, 41)
    given = {**SMALL, "appearance": appearance, "smoothness": smoothness, "normalization": normalization}
    given |= {"compatibility": None if potts else random_penalties(0, 4).float()}
    with_gradients = mean_field(logits.clone().requires_grad_(), image, **given)
    assert with_gradients.requires_grad
    without = mean_field(logits, image, **given)
    assert not without.requires_grad
    torch.testing.assert_close(without, with_gradients.detach(), rtol=0, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(mean_field(logits.clone().requires_grad_(), image, **given), without)


# ---- the module


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("potts", [True, False])
def test_a_fixed_layer_returns_the_logarithm_of_mean_field(preset, potts):
    logits, image, _ = scene(0, 30, 41)
    given = {**PRESETS[preset], "compatibility": None if potts else random_penalties(0, 4).float()}
    crf = DenseCRF(4, **given)
    assert not list(crf.parameters())
    got = crf(logits, image)
    want = mean_field(logits, image, **given)
    torch.testing.assert_close(got.exp(), want, rtol=0, atol=1e-6)
    assert torch.equal(got.argmax(1), want.argmax(1))
    assert got.isfinite().all()  # also where a marginal rounds to 0
    torch.testing.assert_close(got.softmax(1), want, rtol=0, atol=1e-6)  # log-marginals go where logits go


def test_a_trainable_layer_starts_as_the_fixed_one():
    logits, image, _ = scene(0, 30, 41)
    for given in ({}, {"compatibility": random_penalties(0, 4).float()}, {"normalization": "after"}):
        fixed, trainable = DenseCRF(4, **given), DenseCRF(4, trainable=True, **given)
        assert [tuple(parameter.shape) for parameter in trainable.parameters()] == [(2,), (4, 4)]
        difference = (trainable(logits, image).exp() - fixed(logits, image).exp()).abs().mean()
        assert difference < 1e-5


def test_a_state_survives_the_round_trip_also_from_a_trained_layer_into_a_fixed_one(tmp_path):
    logits, image, _ = scene(0, 30, 41)
    trained = DenseCRF(4, trainable=True)
    with torch.no_grad():
        trained.weights.copy_(torch.tensor([0.7, 1.9]))
        trained.compatibility.copy_(random_penalties(2, 4))
        want = trained(logits, image)
    torch.save(trained.state_dict(), tmp_path / "crf.pt")
    state = torch.load(tmp_path / "crf.pt", weights_only=True)
    for trainable in (True, False):
        other = DenseCRF(4, trainable=trainable)
        assert not torch.allclose(other(logits, image), want, atol=1e-2)
        other.load_state_dict(state)
        torch.testing.assert_close(other(logits, image).exp(), want.exp(), rtol=0, atol=1e-6)


def test_training_lowers_the_loss_where_colors_tell_the_border():
    picture = torch.full((2, 3, 16, 21), 60.0)
    picture[0, :, :, 8:], picture[1, :, 5:, :] = 190.0, 190.0
    label = (picture[:, 0] > 100).long()
    generator = torch.Generator().manual_seed(0)
    logits = 2 * F.one_hot(label, 2).permute(0, 3, 1, 2).float() + 2 * torch.randn(2, 2, 16, 21, generator=generator)
    start = {"appearance_weight": 0.3, "appearance_sigma_xy": 10, "appearance_sigma_rgb": 20, "smoothness_weight": 0.3}
    crf = DenseCRF(2, trainable=True, iterations=3, **start)
    before = copy.deepcopy(crf.state_dict())
    optimizer = torch.optim.Adam(crf.parameters(), lr=0.1)
    losses = []
    for _ in range(25):
        loss = F.nll_loss(crf(logits, picture), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert crf.weights[0] > before["weights"][0] + 1  # appearance tells the border exactly, and its weight grows
    assert (crf.compatibility - before["compatibility"]).abs().max() > 0.1
    assert crf.compatibility[0, 1].item() == pytest.approx(crf.compatibility[1, 0].item())  # a pair has one penalty


def test_a_network_learns_through_the_layer():
    logits, image, label = scene(0, 17, 23)
    network = torch.nn.Conv2d(4, 4, 1)
    F.nll_loss(DenseCRF(4, iterations=5)(network(logits), image), label).backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0 for parameter in network.parameters())


def test_the_layer_moves_to_float64_and_prints_itself():
    logits, image, _ = scene(0, 20, 27)
    for trainable in (True, False):
        crf = DenseCRF(4, trainable=trainable, **PRESETS["krahenbuhl2011"]).double()
        assert crf.weights.dtype == crf.compatibility.dtype == torch.float64
        got = crf(logits.double(), image)
        assert got.dtype == torch.float64
        want = mean_field(logits.double(), image, **PRESETS["krahenbuhl2011"])
        torch.testing.assert_close(got.exp(), want, rtol=0, atol=1e-9)
    assert repr(DenseCRF(21, trainable=True, iterations=5)) == "DenseCRF(21, trainable=True, iterations=5)"


def test_whole_numbers_are_weights_too():
    for trainable in (True, False):
        crf = DenseCRF(3, trainable=trainable, appearance_weight=10, smoothness_weight=3)
        assert crf.weights.tolist() == [10, 3]
        assert crf.weights.dtype == torch.float32


def test_a_layer_is_its_own_master_of_the_penalties_it_was_given():
    mu = 1 - torch.eye(3)
    crf = DenseCRF(3, trainable=True, compatibility=mu)
    with torch.no_grad():
        crf.compatibility.zero_()
    assert torch.equal(mu, 1 - torch.eye(3))


@pytest.mark.parametrize("num_classes", [1, 0, -3, 2.0, True, "21", None])
def test_a_count_of_classes_that_makes_no_sense_is_refused(num_classes):
    with pytest.raises(ValueError, match=rf"num_classes={num_classes!r}: allowed are whole numbers from 2"):
        DenseCRF(num_classes)


def test_logits_of_another_count_of_classes_are_refused():
    logits, image, _ = scene(0, 20, 27)
    for crf in (DenseCRF(21), DenseCRF(21, trainable=True), DenseCRF(21, compatibility=torch.ones(21, 21))):
        with pytest.raises(ValueError, match=r"\[1, 4, 20, 27\] and this layer has 21 classes: .*DenseCRF\(4\)"):
            crf(logits, image)
    with pytest.raises(ValueError, match=r"logits are \[4, 20, 27\] and images"):
        DenseCRF(21)(logits[0], image[0])


@pytest.mark.parametrize("trainable", [True, False])
def test_penalties_that_do_not_fit_are_refused_when_the_layer_is_built(trainable):
    with pytest.raises(ValueError, match=r"compatibility is \[5, 5\] and there are 4 classes"):
        DenseCRF(4, trainable=trainable, compatibility=torch.ones(5, 5))
    with pytest.raises(ValueError, match="compatibility is not symmetric"):
        DenseCRF(2, trainable=trainable, compatibility=torch.tensor([[0.0, 1.0], [2.0, 0.0]]))


# ---- the search


def solved_by(count: int = 3, **parameters: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Pictures whose labels are what mean field gives with these parameters, which therefore reach a mean IoU of 1."""
    pictures = [scene(seed, 24, 33)[:2] for seed in range(count)]
    return [(logits[0], image[0], mean_field(logits, image, **parameters).argmax(1)[0]) for logits, image in pictures]


def test_the_search_finds_the_parameters_that_made_the_labels():
    best = {"appearance_weight": 5.0, "appearance_sigma_rgb": 8.0}
    pictures = solved_by(**best, smoothness_weight=1.0)
    grid = {"appearance_weight": (1, 5, 9), "appearance_sigma_rgb": (4, 8, 16)}
    found = tune(pictures, grid=grid, rounds=1, progress=False, smoothness_weight=1.0)
    assert found.parameters == {**best, "smoothness_weight": 1.0}
    assert found.mean_iou == 1 > found.mean_iou_before
    assert sorted(found.trials) == sorted(itertools.product((1, 5, 9), (4, 8, 16)))
    assert sum(score == 1 for score in found.trials.values()) == 1
    logits, image, label = pictures[0]
    assert torch.equal(mean_field(logits[None], image[None], **found.parameters).argmax(1)[0], label)


def test_a_second_round_goes_half_way_and_never_back():
    pictures = solved_by(appearance_weight=3.0, appearance_sigma_rgb=8.0)
    grid = {"appearance_weight": (2, 4, 8), "appearance_sigma_rgb": (8,)}
    coarse, fine = (tune(pictures, grid=grid, rounds=rounds, progress=False) for rounds in (1, 2))
    assert coarse.mean_iou < 1 == fine.mean_iou
    assert fine.parameters["appearance_weight"] == 3
    tried = [weight for weight, _ in fine.trials]
    assert tried[:3] == [2, 4, 8]
    assert 3 in tried[3:]
    assert len(tried) == len(set(tried))
    assert all(fine.trials[point] == score for point, score in coarse.trials.items())


def test_each_trial_is_the_mean_iou_of_mean_field_with_these_parameters():
    pictures = [tuple(part[0] for part in scene(seed, 24, 33)) for seed in range(2)]
    mu = random_penalties(0, 4).float()
    fixed = {"iterations": 3, "compatibility": mu, "normalization": "after"}
    found = tune(
        pictures, grid={"appearance_weight": (0, 6), "smoothness_sigma_xy": (1, 4)}, rounds=1, progress=False, **fixed
    )
    for (weight, sigma), score in found.trials.items():
        matrix = ConfusionMatrix(4)
        for logits, image, label in pictures:
            marginals = mean_field(
                logits[None], image[None], appearance_weight=weight, smoothness_sigma_xy=sigma, **fixed
            )
            matrix.update(marginals.argmax(1)[0], label)
        assert score == pytest.approx(matrix.mean_iou, abs=1e-12)
    before = ConfusionMatrix(4)
    for logits, _, label in pictures:
        before.update(logits.argmax(0), label)
    assert found.mean_iou_before == before.mean_iou


def test_the_search_shows_a_bar_only_when_asked(capsys):
    pictures = solved_by(1)
    for progress, seen in ((True, "round 1 of 1: 100%"), (False, "")):
        tune(pictures, grid={"appearance_weight": (1, 2)}, rounds=1, progress=progress)
        assert seen in capsys.readouterr().err
    tune(pictures, grid={"appearance_weight": (1, 2)}, rounds=1, progress=False)
    assert capsys.readouterr().err == ""


def test_the_search_refuses_what_it_cannot_search():
    pictures = solved_by(1)
    with pytest.raises(ValueError, match=r"0 pictures, 2 rounds.*one or more of each"):
        tune([], progress=False)
    with pytest.raises(ValueError, match=r"rounds=0: allowed are whole numbers from 1"):
        tune(pictures, rounds=0, progress=False)
    for grid in ({}, {"appearance_weight": ()}):
        with pytest.raises(ValueError, match=r"allowed is one or more of each"):
            tune(pictures, grid=grid, progress=False)
    with pytest.raises(TypeError, match=r"no parameter 'apearance_weight'; did you mean appearance_weight\?"):
        tune(pictures, grid={"apearance_weight": (1, 2)}, progress=False)
    with pytest.raises(ValueError, match=r"appearance_sigma_rgb=0.0: allowed are finite numbers above 0"):
        tune(pictures, grid={"appearance_sigma_rgb": (0, 2)}, progress=False)
    with pytest.raises(ValueError, match="logits are nan or infinite"):
        tune([(pictures[0][0] * torch.nan, *pictures[0][1:])], progress=False)
    with pytest.raises(ValueError, match=r"compatibility is \[3, 3\] and there are 4 classes"):
        tune(pictures, compatibility=1 - torch.eye(3), progress=False)
