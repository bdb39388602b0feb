"""The fully connected CRF: the definition in plain Python, pydensecrf's numbers, and what theory says."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.crf_golden import coarse_logits, draw_out, read_cases, run_pydensecrf, synthetic_picture
from deeplab_lesson.crf import (
    PRESETS,
    BilateralGrid,
    PermutohedralLattice,
    dense,
    exact_mean_field,
    free_energy,
    mean_field,
)

NORMALIZATIONS = ("symmetric", "after")
OPERATORS = (PermutohedralLattice, BilateralGrid)
SMALL: dict[str, Any] = {"appearance_sigma_xy": 4.0, "appearance_sigma_rgb": 60.0, "smoothness_sigma_xy": 1.5}
GOLDEN = {case.name: (case, want) for case, want in read_cases()}


def scene(seed: int, height: int = 48, width: int = 64, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """A disk, a bar and a frame with noise: coarse noisy logits [1, C, H, W], image uint8 [1, 3, H, W], labels."""
    picture, labels = synthetic_picture(height, width, seed)
    logits = draw_out(coarse_logits(labels, classes, seed), height, width)
    image = torch.from_numpy(picture).permute(2, 0, 1)
    return torch.from_numpy(logits)[None], image[None], torch.from_numpy(labels)[None]


def noise(seed: int, classes: int = 3, height: int = 5, width: int = 6, count: int = 1) -> tuple[Tensor, Tensor]:
    """Logits float64 and images float64 [N, 3, H, W] without any structure."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, height, width, generator=generator, dtype=torch.float64)
    images = torch.randint(0, 256, (count, 3, height, width), generator=generator)
    return logits, images.double()


def random_penalties(seed: int, classes: int) -> Tensor:
    half = torch.rand(classes, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return half + half.T


def features(image: Tensor, sigma_xy: float, sigma_rgb: float) -> Tensor:
    """(x, y, red, green, blue) of each pixel of an image [1, 3, H, W], in sigmas: float64 [H W, 5]."""
    y, x = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in image.shape[2:]), indexing="ij")
    colors = image[0].double() / sigma_rgb
    return torch.stack([x / sigma_xy, y / sigma_xy, *colors], -1).flatten(0, 1)


def dense_matrix(points: Tensor, normalization: str) -> Tensor:
    """Every pair of points at once: the normalized kernel as a matrix."""
    k = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square_().mul_(-0.5).exp_()
    sums = k.sum(1)
    return k.div_(sums[:, None]) if normalization == "after" else k.div_(sums.sqrt()).div_(sums.sqrt()[:, None])


def mean_field_with_matrices(logits: Tensor, image: Tensor, **parameters: Any) -> Tensor:
    """One picture's marginals from two matrices of all pairs, in float64: [1, C, H, W]."""
    normalization = parameters.get("normalization", "symmetric")
    points = features(image, parameters["appearance_sigma_xy"], parameters["appearance_sigma_rgb"])
    matrix = parameters["appearance_weight"] * dense_matrix(points, normalization)
    points = features(image, parameters["smoothness_sigma_xy"], 1)[:, :2]
    matrix += parameters["smoothness_weight"] * dense_matrix(points, normalization)
    scores = logits[0].flatten(1).T.double()
    marginals = scores.softmax(1)
    for _ in range(parameters["iterations"]):
        marginals = (scores + matrix @ marginals).softmax(1)
    return marginals.T.reshape(logits.shape)


def literal_kernels(image: Tensor, parameters: dict[str, Any], normalization: str) -> list[list[float]]:
    """The sum of both weighted kernels between all pixels, in Python's floats."""
    _, _, H, W = image.shape
    pixels = list(itertools.product(range(H), range(W)))
    colors = [[float(image[0, channel, r, c]) for channel in range(image.shape[1])] for r, c in pixels]
    total = [[0.0] * len(pixels) for _ in pixels]
    for kind in ("appearance", "smoothness"):
        k = []
        for i, (r, c) in enumerate(pixels):
            row = []
            for j, (s, d) in enumerate(pixels):
                exponent = ((r - s) ** 2 + (c - d) ** 2) / (2 * parameters[f"{kind}_sigma_xy"] ** 2)
                if kind == "appearance":
                    away = sum((a - b) ** 2 for a, b in zip(colors[i], colors[j], strict=True))
                    exponent += away / (2 * parameters["appearance_sigma_rgb"] ** 2)
                row.append(math.exp(-exponent))
            k.append(row)
        sums = [sum(row) for row in k]
        for i, j in itertools.product(range(len(pixels)), repeat=2):
            scale = sums[i] if normalization == "after" else math.sqrt(sums[i] * sums[j])
            total[i][j] += parameters[f"{kind}_weight"] * k[i][j] / scale
    return total


def literal_mean_field(
    logits: Tensor, image: Tensor, penalties: Tensor, normalization: str, parameters: dict
) -> Tensor:
    """The update of the paper, pixel by pixel and label by label."""
    C = logits.shape[1]
    scores = logits[0].flatten(1).T.tolist()
    kernel, mu = literal_kernels(image, parameters, normalization), penalties.tolist()

    def softmax(row: list[float]) -> list[float]:
        exponentials = [math.exp(value) for value in row]
        return [value / sum(exponentials) for value in exponentials]

    marginals = [softmax(row) for row in scores]
    for _ in range(parameters["iterations"]):
        updated = []
        for i, row in enumerate(scores):
            messages = [sum(kernel[i][j] * other[label] for j, other in enumerate(marginals)) for label in range(C)]
            updated.append(softmax([row[a] - sum(mu[a][b] * messages[b] for b in range(C)) for a in range(C)]))
        marginals = updated
    return torch.tensor(marginals, dtype=torch.float64).T.reshape(logits.shape)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    return (scores.argmax(1) == labels).double().mean().item()


def distance(one: Tensor, other: Tensor) -> tuple[float, float]:
    """The mean difference, and the fraction of equal labels."""
    return (one - other).abs().mean().item(), accuracy(one, other.argmax(1))


# ---- the definition


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("potts", [True, False])
def test_exact_mean_field_equals_a_literal_double_loop_over_pixels(potts, normalization):
    logits, image = noise(3)
    parameters = {**SMALL, "appearance_weight": 2.0, "smoothness_weight": 1.5, "iterations": 3}
    penalties = 1 - torch.eye(3, dtype=torch.float64) if potts else random_penalties(1, 3)
    want = literal_mean_field(logits, image, penalties, normalization, parameters)
    options = {**parameters, "normalization": normalization, "compatibility": None if potts else penalties}
    torch.testing.assert_close(exact_mean_field(logits, image, **options), want, rtol=0, atol=1e-10)
    assert (want - logits.softmax(1)).abs().max() > 0.1  # three iterations do something


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_exact_mean_field_a_block_of_rows_at_a_time_equals_the_whole_matrix(normalization, monkeypatch):
    logits, image, _ = scene(0, 24, 31)
    parameters = {**PRESETS["deeplab_v1"], "iterations": 3, "normalization": normalization}
    monkeypatch.setattr(dense.ExactKernel.__init__, "__defaults__", (5000,))  # 6 rows of 744, which 6 does not divide
    want = mean_field_with_matrices(logits, image, **parameters)
    torch.testing.assert_close(exact_mean_field(logits.double(), image, **parameters), want, rtol=0, atol=1e-10)


def test_exact_mean_field_ignores_how_the_kernels_would_be_approximated():
    logits, image = noise(0)
    want = exact_mean_field(logits, image, **SMALL)
    assert torch.equal(exact_mean_field(logits, image, appearance="grid", smoothness="lattice", **SMALL), want)


def test_the_presets_are_those_of_the_released_scripts():
    names = ("appearance_weight", "appearance_sigma_xy", "appearance_sigma_rgb")
    names += ("smoothness_weight", "smoothness_sigma_xy", "iterations")
    assert {name: tuple(preset[key] for key in names) for name, preset in PRESETS.items()} == {
        "deeplab_v1": (4, 49, 5, 3, 3, 10),
        "deeplab_v2_vgg16": (4, 65, 3, 2, 2, 10),
        "deeplab_v2_resnet101": (4, 67, 3, 3, 1, 10),
        "krahenbuhl2011": (10, 80, 13, 3, 3, 5),
    }
    with pytest.raises(TypeError):
        PRESETS["deeplab_v1"]["iterations"] = 5  # type: ignore[index]


# ---- pydensecrf


@pytest.mark.parametrize("name", GOLDEN)
def test_both_kernels_on_the_lattice_give_what_pydensecrf_gives(name):
    """tests/data/crf_golden.npz is what pydensecrf 1.1 made of these inputs: `python -m benchmarks.crf_golden`."""
    case, want = GOLDEN[name]
    got = on_the_lattice(case.logits, case.image, case.parameters, case.compatibility)
    assert (got.argmax(0) == want["labels"]).all()
    assert np.abs(got[:, ::3, ::3] - want["marginals"]).mean() < 1e-5
    assert np.abs(got[:, ::3, ::3] - want["marginals"]).max() < 1e-3
    assert np.abs(got.mean((1, 2), dtype=np.float64) - want["means"]).max() < 1e-5
    assert (case.logits.argmax(0) != want["labels"]).mean() > 0.1  # the CRF changes much in these pictures


@pytest.mark.parametrize("name", GOLDEN)
def test_with_the_exact_smoothness_kernel_nearly_all_labels_are_those_of_pydensecrf(name):
    case, want = GOLDEN[name]
    got = on_the_lattice(case.logits, case.image, case.parameters, case.compatibility, smoothness="exact")
    assert (got.argmax(0) == want["labels"]).mean() >= 0.985  # measured: 0.9900 to 1
    assert np.abs(got[:, ::3, ::3] - want["marginals"]).mean() < 0.003  # measured: 0.0018 at most


def test_the_golden_file_covers_both_normalizations_a_matrix_and_four_to_twenty_one_classes():
    cases = [case for case, _ in GOLDEN.values()]
    assert {case.normalization for case in cases} == set(NORMALIZATIONS)
    assert {case.compatibility is None for case in cases} == {True, False}
    assert {case.preset for case in cases} >= {"krahenbuhl2011", "deeplab_v1", "deeplab_v2_resnet101"}
    assert {4, 21} <= {len(case.coarse) for case in cases}


@pytest.mark.parametrize("size", [(33, 47), (80, 60)])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_labels_and_marginals_are_those_of_pydensecrf_where_it_is_installed(preset, normalization, size):
    pytest.importorskip("pydensecrf.densecrf")
    logits, image, _ = scene(sum(size), *size, classes=6)
    parameters = {**PRESETS[preset], "normalization": normalization}
    picture = image[0].permute(1, 2, 0).numpy()
    want = run_pydensecrf(logits[0].numpy(), picture, parameters)
    got = on_the_lattice(logits[0].numpy(), picture, parameters)
    assert (got.argmax(0) == want.argmax(0)).mean() >= 0.9999
    assert np.abs(got - want).mean() < 1e-5


def test_free_energy_and_the_divergence_of_pydensecrf_differ_by_the_half():
    dcrf = pytest.importorskip("pydensecrf.densecrf")
    logits, image, _ = scene(1, 20, 27)
    mu, parameters = 1 - np.eye(4, dtype=np.float32), {**PRESETS["deeplab_v1"], "smoothness": "lattice"}
    field = dcrf.DenseCRF2D(27, 20, 4)
    field.setUnaryEnergy(np.ascontiguousarray(-logits.log_softmax(1).numpy().reshape(4, -1)))
    field.addPairwiseGaussian(sxy=3, compat=3 * mu)
    field.addPairwiseBilateral(
        sxy=49, srgb=5, rgbim=np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()), compat=4 * mu
    )
    q, first, second = field.startInference()
    for _ in range(3):
        field.stepInference(q, first, second)
    marginals = torch.from_numpy(np.array(q)).reshape(logits.shape)
    unary = (torch.xlogy(marginals, marginals) - marginals * logits.log_softmax(1)).sum().item()
    doubled = unary + 2 * (free_energy(marginals, logits, image, **parameters).item() - unary)
    assert field.klDivergence(q) == pytest.approx(doubled, rel=1e-4)


def on_the_lattice(
    logits: np.ndarray,
    picture: np.ndarray,
    parameters: dict,
    penalties: np.ndarray | None = None,
    smoothness: str = "lattice",
) -> np.ndarray:
    """Our marginals [C, H, W] of logits [C, H, W] and a picture [H, W, 3]."""
    compatibility = None if penalties is None else torch.from_numpy(penalties)
    image = torch.from_numpy(picture).permute(2, 0, 1)[None]
    marginals = mean_field(
        torch.from_numpy(logits)[None], image, smoothness=smoothness, compatibility=compatibility, **parameters
    )
    return marginals[0].numpy()


# ---- the kernels and their approximations


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    ("preset", "lattice", "grid"),
    [("krahenbuhl2011", 0.04, 0.2), ("deeplab_v1", 0.04, 0.25), ("deeplab_v2_resnet101", 0.08, 0.4)],
)
def test_one_pass_over_the_lattice_is_near_the_dense_matrix_and_nearer_than_the_grid(
    preset, lattice, grid, normalization
):
    # Measured, relative L1, seeds 0 to 3: lattice 0.018, 0.022, 0.030 (symmetric), grid 0.10, 0.15, 0.26.
    logits, image, _ = scene(0)
    points = features(image, PRESETS[preset]["appearance_sigma_xy"], PRESETS[preset]["appearance_sigma_rgb"])
    values = logits[0].softmax(0).flatten(1).T.contiguous()
    want = dense_matrix(points, normalization).float() @ values
    errors = [
        ((operator(points.float(), normalization=normalization)(values) - want).abs().sum() / want.abs().sum()).item()
        for operator in OPERATORS
    ]
    assert errors[0] < lattice
    assert errors[1] < grid
    assert errors[0] < errors[1] / 2


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(
    ("preset", "most_difference", "least_agreement"),
    [
        ("krahenbuhl2011", 0.001, 0.998),
        ("deeplab_v1", 0.006, 0.985),
        ("deeplab_v2_vgg16", 0.006, 0.985),
        ("deeplab_v2_resnet101", 0.006, 0.985),
    ],
)
def test_mean_field_is_near_the_exact_one_in_the_mean_and_in_its_labels(
    preset, most_difference, least_agreement, normalization
):
    # Never the maximum: a few pixels are bistable.
    logits, image, _ = scene(0)
    parameters = {**PRESETS[preset], "iterations": 10, "normalization": normalization}
    want = mean_field_with_matrices(logits, image, **parameters).float()
    difference, agreement = distance(mean_field(logits, image, **parameters), want)
    assert difference < most_difference  # measured: 0.00001 (krahenbuhl2011), 0.0008, 0.0020, 0.0018
    assert agreement >= least_agreement  # 1, 0.998, 0.995, 0.996
    coarse = mean_field(logits, image, appearance="grid", **parameters)
    coarse_difference, coarse_agreement = distance(coarse, want)
    assert difference <= coarse_difference < 0.03  # 0.0005, 0.011, 0.017, 0.014
    assert agreement >= coarse_agreement >= 0.95  # 0.999, 0.979, 0.966, 0.971


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("sigma", [0.5, 1, 3, 20])  # cut at 80 pixels, the last reaches over a block of 64 rows
def test_the_smoothness_convolutions_equal_the_dense_matrix(sigma, normalization):
    logits, image = noise(0, classes=4, height=13, width=70)
    options = {"appearance_weight": 0, "smoothness_weight": 5, "smoothness_sigma_xy": sigma, "iterations": 1}
    options |= {"appearance_sigma_xy": 1, "appearance_sigma_rgb": 1, "normalization": normalization}
    want = mean_field_with_matrices(logits, image, **options)
    torch.testing.assert_close(mean_field(logits, image, **options), want, rtol=0, atol=1e-4)
    tall = [tensor.transpose(2, 3).repeat(1, 1, 2, 1) for tensor in (logits, image)]  # 140 rows: several blocks
    want = mean_field_with_matrices(*tall, **options)
    torch.testing.assert_close(mean_field(*tall, **options), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_attention_is_the_exact_kernel_normalized_after(preset):
    logits, image, _ = scene(5, 20, 27, classes=7)  # more labels than features, and fewer below
    parameters = {**PRESETS[preset], "iterations": 3, "normalization": "after"}
    for values in (logits, logits[:, :3]):
        want = exact_mean_field(values, image, **parameters)
        got = mean_field(values, image, appearance="attention", **parameters)
        difference, agreement = distance(got, want)
        assert difference < 1e-4
        assert agreement == 1
    double = mean_field(logits.double(), image, appearance="attention", **parameters)
    want = mean_field(logits.double(), image, appearance="exact", **parameters)
    torch.testing.assert_close(double, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("operator", OPERATORS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), d=st.integers(1, 6), points=st.integers(1, 60))
def test_the_gradient_of_the_operator_is_its_transpose(operator, normalization, seed, d, points):
    generator = torch.Generator().manual_seed(seed)
    kernel = operator(3 * torch.rand(points, d, generator=generator, dtype=torch.float64), normalization=normalization)
    a, b, c = (torch.randn(points, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    b.requires_grad_()
    forward = (a * kernel(b)).sum()
    (transposed,) = torch.autograd.grad(forward, b)  # W^T a
    assert (transposed * b).sum().item() == pytest.approx(forward.item(), rel=1e-9, abs=1e-9)
    assert (transposed * c).sum().item() == pytest.approx((a * kernel(c)).sum().item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("operator", OPERATORS)
def test_rows_sum_to_one_after_and_the_whole_keeps_its_sum_nearly_when_symmetric(operator):
    points = features(scene(0, 30, 41)[1], 20, 8)
    ones = torch.ones(len(points), 1, dtype=torch.float64)
    torch.testing.assert_close(operator(points, normalization="after")(ones), ones, rtol=0, atol=1e-9)
    assert operator(points)(ones).mean().item() == pytest.approx(1, abs=0.05)  # measured: 0.969 and 0.975


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("apart", [1, 2**13, 2**20, 2**30])  # the cells' numbers take 32 bits, and 64
def test_points_of_different_groups_do_not_see_each_other(apart, operator, normalization):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(90, 4, generator=generator, dtype=torch.float64)
    values = torch.rand(90, 2, generator=generator, dtype=torch.float64)
    group = torch.arange(90) % 3
    together = operator(4 * points, apart * group, normalization=normalization)(values)
    for number in range(3):
        mine = group == number
        alone = operator(4 * points[mine], normalization=normalization)(values[mine])
        torch.testing.assert_close(together[mine], alone, rtol=0, atol=1e-10)


def test_the_lattice_needs_no_more_points_than_corners_and_fewer_where_colors_are_alike():
    noisy = torch.randint(0, 256, (1, 3, 30, 41), generator=torch.Generator().manual_seed(0))
    sizes = [PermutohedralLattice(features(image, 49, 5)).size for image in (noisy, torch.zeros_like(noisy))]
    assert 30 * 41 < sizes[0] <= 6 * 30 * 41
    assert sizes[1] < 100


# ---- what theory says


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_marginals_are_positive_and_sum_to_one_at_each_pixel(normalization):
    marginals = mean_field(*scene(0)[:2], normalization=normalization)
    assert (marginals >= 0).all()
    torch.testing.assert_close(marginals.sum(1), torch.ones(1, 48, 64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"appearance_weight": 0, "smoothness_weight": 0}], ids=str)
@pytest.mark.parametrize("inference", [mean_field, exact_mean_field])
def test_without_iterations_or_without_weights_the_marginals_are_the_softmax(inference, settings):
    logits, image, _ = scene(0, 20, 27)
    torch.testing.assert_close(inference(logits, image, **settings), logits.softmax(1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("appearance", ["lattice", "grid"])
def test_uniform_logits_stay_uniform(appearance, normalization):
    _, image, _ = scene(0)
    got = mean_field(torch.full((1, 5, 48, 64), 2.0), image, appearance=appearance, normalization=normalization)
    torch.testing.assert_close(got, torch.full_like(got, 0.2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_potts_equals_the_matrix_one_minus_identity(normalization):
    logits, image, _ = scene(0)
    want = mean_field(logits, image, normalization=normalization)
    got = mean_field(logits, image, normalization=normalization, compatibility=1 - torch.eye(4))
    difference, agreement = distance(got, want)
    assert difference < 1e-5
    assert agreement >= 0.9999
    # With float64 there is no rounding that a bistable pixel could make large.
    double = [mean_field(logits.double(), image, compatibility=mu) for mu in (None, 1 - torch.eye(4))]
    torch.testing.assert_close(*double, rtol=0, atol=1e-9)


def test_a_lower_penalty_for_a_pair_leaves_more_of_their_borders():
    logits, image = noise(0, height=24, width=31)
    mild = 1 - torch.eye(3)
    mild[0, 1] = mild[1, 0] = 0
    changes = []
    for penalties in (None, mild):
        labels = mean_field(logits, image, compatibility=penalties).argmax(1)
        pairs = torch.stack([labels[:, :, 1:], labels[:, :, :-1]]).sort(0).values
        changes.append(((pairs[0] == 0) & (pairs[1] == 1)).sum().item())
    assert changes[1] > 1.5 * changes[0]  # measured: 340 and 171


@pytest.mark.parametrize("appearance", ["lattice", "grid"])
def test_a_batch_of_three_equals_one_by_one(appearance):
    pictures = [scene(seed, 33, 47) for seed in range(3)]
    logits, images = (torch.cat([picture[part] for picture in pictures]) for part in range(2))
    together = mean_field(logits, images, appearance=appearance)
    alone = torch.cat([mean_field(one, image, appearance=appearance) for one, image, _ in pictures])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    exact = exact_mean_field(logits[..., :9, :8], images[..., :9, :8])
    alone = torch.cat([exact_mean_field(one[..., :9, :8], image[..., :9, :8]) for one, image, _ in pictures])
    torch.testing.assert_close(exact, alone, rtol=0, atol=1e-5)


def test_a_large_batch_is_split_and_nothing_changes(monkeypatch):
    logits, images = (torch.cat([scene(seed, 20, 27)[part] for seed in range(5)]) for part in range(2))
    want, sizes, iterate = mean_field(logits, images), [], dense.iterate

    def counted(scores: Tensor, *arguments: Any) -> Tensor:
        sizes.append(len(scores))
        return iterate(scores, *arguments)

    monkeypatch.setattr(dense, "iterate", counted)
    monkeypatch.setitem(dense.PIXELS_AT_ONCE, "cpu", 2 * 20 * 27 + 1)
    torch.testing.assert_close(mean_field(logits, images), want, rtol=0, atol=1e-5)
    assert sizes == [2, 2, 1]
    monkeypatch.setitem(dense.PIXELS_AT_ONCE, "cpu", 1)  # one picture is more than that: still one at a time
    torch.testing.assert_close(mean_field(logits, images), want, rtol=0, atol=1e-5)
    assert sizes[3:] == [1] * 5


def test_renaming_the_classes_renames_the_marginals():
    logits, image, _ = scene(0, 33, 47, classes=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    mu = random_penalties(0, 5).float()
    for penalties in (None, mu):
        want = mean_field(logits, image, compatibility=penalties)[:, order]
        renamed = None if penalties is None else penalties[order][:, order]
        got = mean_field(logits[:, order], image, compatibility=renamed)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


def test_a_constant_added_at_each_pixel_changes_nothing():
    logits, image, _ = scene(0, 33, 47)
    constant = 10 * torch.randn(1, 1, 33, 47, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mean_field(logits + constant, image), mean_field(logits, image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("constant", [-1000.0, -80.0, 80.0, 1000.0])  # exp of which leaves the range of float32
@pytest.mark.parametrize("weight", [3.0, 1000.0])
def test_logits_and_weights_of_any_size_give_marginals(constant, weight):
    logits, image, _ = scene(0, 24, 33)
    both = {"appearance_weight": weight, "iterations": 3}
    got = mean_field(logits.double() + constant, image, **both)
    torch.testing.assert_close(got, mean_field(logits.double(), image, **both), rtol=0, atol=1e-9)
    torch.testing.assert_close(got.float(), mean_field(logits + constant, image, **both), rtol=0, atol=0.02)


@pytest.mark.parametrize("appearance", ["lattice", "grid", "exact"])
def test_turning_the_picture_turns_the_marginals(appearance):
    # Exact on square symmetric kernels; on the lattice and the grid cells lie otherwise, so labels agree mostly.
    logits, image, _ = scene(0, 24, 33)
    got = mean_field(logits.transpose(2, 3), image.transpose(2, 3), appearance=appearance).transpose(2, 3)
    difference, agreement = distance(got, mean_field(logits, image, appearance=appearance))
    assert difference < (1e-5 if appearance == "exact" else 0.03)
    assert agreement >= (0.999 if appearance == "exact" else 0.95)


@pytest.mark.parametrize("preset", ["krahenbuhl2011", "deeplab_v1"])
def test_coarse_noisy_logits_become_more_accurate(preset):
    for seed in range(6):  # measured: +0.068 to +0.188
        logits, image, labels = scene(seed)
        assert accuracy(mean_field(logits, image, **PRESETS[preset]), labels) > accuracy(logits, labels) + 0.03


# ---- the free energy


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("potts", [True, False])
def test_free_energy_equals_a_literal_double_sum_with_its_half(potts, normalization):
    logits, image = noise(2, height=4, width=5)
    parameters = {**SMALL, "appearance_weight": 2.0, "smoothness_weight": 1.5}
    mu = (1 - torch.eye(3)).double() if potts else random_penalties(4, 3)
    marginals = torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(9), dtype=torch.float64).softmax(1)
    q, unary = marginals[0].flatten(1).T.tolist(), (-logits.log_softmax(1))[0].flatten(1).T.tolist()
    kernel = literal_kernels(image, parameters, normalization)
    want = sum(
        p * (math.log(p) + u) for row, terms in zip(q, unary, strict=True) for p, u in zip(row, terms, strict=True)
    )
    for i, j in itertools.product(range(20), repeat=2):
        for a, b in itertools.product(range(3), repeat=2):
            want += 0.5 * kernel[i][j] * q[i][a] * q[j][b] * mu[a, b].item()
    options = {**parameters, "normalization": normalization, "compatibility": None if potts else mu}
    got = free_energy(marginals, logits, image, appearance="exact", smoothness_sigma_xy=1.5, **without(options))
    assert got.shape == (1,)
    assert got.item() == pytest.approx(want, rel=1e-4)  # the smoothness kernel is cut at four sigma


def without(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name != "smoothness_sigma_xy"}


@pytest.mark.parametrize("potts", [True, False])
def test_mean_field_ends_where_the_free_energy_is_stationary(potts):
    """dF/dQ = log Q + 1 + U + mu K Q vanishes along the simplex at a fixed point, with the half and only with it."""
    logits, image = noise(7, height=6, width=7)
    options = {**SMALL, "appearance_weight": 0.8, "smoothness_weight": 0.8, "appearance": "exact"}
    options |= {"compatibility": None if potts else random_penalties(3, 3)}
    fixed = mean_field(logits, image, iterations=300, **options)
    scores = fixed.log().requires_grad_()
    energy = free_energy(scores.softmax(1), logits, image, **options)
    energy.backward()
    assert scores.grad.abs().max() < 1e-9
    away = (scores.detach() + 0.1 * noise(8, height=6, width=7)[0]).softmax(1)
    assert free_energy(away, logits, image, **options) > energy + 1e-4


@pytest.mark.parametrize("preset", PRESETS)
def test_free_energy_falls_in_nearly_all_iterations(preset):
    # Parallel updates give no guarantee (tests/test_crf_grid.py has a field where it rises).
    steps = []
    for seed in range(3):
        logits, image, _ = scene(seed, 14, 19)
        logits, options = logits.double(), {**PRESETS[preset], "appearance": "exact"}
        energies = []
        for iterations in range(11):
            marginals = mean_field(logits, image, **{**options, "iterations": iterations})
            energies.append(free_energy(marginals, logits, image, **options).item())
        steps += [after <= before + 1e-9 * abs(before) for before, after in itertools.pairwise(energies)]
        assert energies[-1] < energies[0]
    assert sum(steps) >= 0.95 * len(steps)


def test_free_energy_of_a_batch_is_one_number_a_picture_and_does_not_mind_marginals_of_zero():
    logits, images = (torch.cat([scene(seed, 20, 27)[part] for seed in range(3)]) for part in range(2))
    marginals = torch.zeros_like(logits)
    marginals[:, 1] = 1
    got = free_energy(marginals, logits, images)
    assert got.isfinite().all()
    alone = [free_energy(marginals[i : i + 1], logits[i : i + 1], images[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(got, torch.cat(alone), rtol=1e-5, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_gpu_gives_what_the_cpu_gives(preset):
    logits, images = (torch.cat([scene(seed)[part] for seed in range(3)]) for part in range(2))
    for options in ({}, {"smoothness": "lattice"}, {"appearance": "grid"}, {"normalization": "after"}):
        want = mean_field(logits, images, **PRESETS[preset], **options)
        got = mean_field(logits.cuda(), images.cuda(), **PRESETS[preset], **options).cpu()
        difference, agreement = distance(got, want)
        assert difference < 1e-5
        assert agreement >= 0.999
