"""The fully connected CRF: which pictures and number types it takes, what it leaves alone, and what it refuses."""

import warnings
from typing import Any

import pytest
import torch
from test_crf_dense import NORMALIZATIONS, distance, mean_field_with_matrices, noise, random_penalties, scene
from torch import Tensor

from deeplab_lesson.crf import (
    PRESETS,
    BilateralGrid,
    CRFParameters,
    DenseCRF,
    PermutohedralLattice,
    exact_mean_field,
    free_energy,
    mean_field,
    tune,
)

APPROXIMATIONS = [("lattice", "exact"), ("lattice", "lattice"), ("grid", "exact"), ("exact", "exact")]


def layer(logits: Tensor, images: Tensor, **parameters: Any) -> Tensor:
    return DenseCRF(logits.shape[1] if logits.ndim > 1 else 2, **parameters)(logits, images)


def energy(logits: Tensor, images: Tensor, **parameters: Any) -> Tensor:
    return free_energy(torch.zeros_like(logits), logits, images, **parameters)


every_way_in = pytest.mark.parametrize("call", [mean_field, exact_mean_field, layer, energy])


# ---- pictures of any size and kind


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2)])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize(("appearance", "smoothness"), APPROXIMATIONS)
def test_tiny_pictures_work(appearance, smoothness, normalization, size):
    logits, image = noise(0, height=size[0], width=size[1])
    image = image / 16  # near colors, so that the pixels see each other
    given = {**PRESETS["krahenbuhl2011"], "normalization": normalization}
    got = mean_field(logits, image, appearance=appearance, smoothness=smoothness, **given)
    want = mean_field_with_matrices(logits, image, **given)
    assert got.shape == (1, 3, *size)
    torch.testing.assert_close(got.sum(1), torch.ones(1, *size, dtype=torch.float64))
    torch.testing.assert_close(exact_mean_field(logits, image, **given), want, rtol=0, atol=1e-10)
    assert (got - want).abs().max() < 0.05


def test_a_picture_of_one_pixel_is_pulled_by_itself():
    # The published codes count the pixel itself: with both kernels normalized, Q <- softmax(logits + (w1 + w2) Q).
    logits, image = torch.tensor([[[[0.3]], [[0.0]]]]), torch.full((1, 3, 1, 1), 7.0)
    want = (logits + 5 * logits.softmax(1)).softmax(1)
    got = mean_field(logits, image, appearance_weight=2, smoothness_weight=3, iterations=1)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_a_picture_may_have_any_number_of_channels(channels):
    logits, image, _ = scene(0, 24, 33)
    picture = image.repeat(1, 2, 1, 1)[:, :channels].float()
    given = {**PRESETS["krahenbuhl2011"], "iterations": 3}
    want = mean_field_with_matrices(logits, picture, **given).float()
    torch.testing.assert_close(exact_mean_field(logits, picture, **given), want, rtol=0, atol=1e-4)
    difference, agreement = distance(mean_field(logits, picture, **given), want)
    assert difference < 0.02
    assert agreement > 0.97


def test_a_gray_picture_equals_three_channels_with_a_sigma_that_is_root_three_larger():
    logits, image, _ = scene(0, 24, 33)
    gray = image[:, :1]
    want = exact_mean_field(logits, gray, appearance_sigma_rgb=5)
    got = exact_mean_field(logits, gray.expand(-1, 3, -1, -1), appearance_sigma_rgb=5 * 3**0.5)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int32, torch.int64])
def test_the_number_type_of_the_picture_does_not_matter(dtype):
    logits, image, _ = scene(0, 24, 33)
    assert image.dtype == torch.uint8
    assert torch.equal(mean_field(logits, image.to(dtype)), mean_field(logits, image))


def test_black_pictures_and_pictures_of_one_color_work():
    logits, image, _ = scene(0, 24, 33)
    for color in (0.0, 200.0):
        marginals = mean_field(logits, torch.full_like(image, color, dtype=torch.float32))
        assert marginals.isfinite().all()
    assert torch.equal(mean_field(logits, torch.zeros(1, 3, 24, 33)), mean_field(logits, torch.zeros_like(image)))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_logits_of_any_size_give_finite_marginals(normalization):
    logits, image, _ = scene(0, 24, 33)
    for scale in (1e-30, 1e4, 1e30):
        marginals = mean_field(scale * logits, image, normalization=normalization)
        assert marginals.isfinite().all()
        assert DenseCRF(4, normalization=normalization)(scale * logits, image).isfinite().all()
        torch.testing.assert_close(marginals.sum(1), torch.ones(1, 24, 33), rtol=0, atol=1e-5)


# ---- number types


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_and_returned_as_it_came(dtype):
    logits, image, _ = scene(0, 24, 33)
    half = logits.to(dtype)
    for call in (mean_field, exact_mean_field):
        got = call(half, image)
        assert got.dtype == dtype
        assert torch.equal(got, call(half.float(), image).to(dtype))
    assert layer(half, image).dtype == torch.float32
    assert torch.equal(layer(half, image), layer(half.float(), image))
    marginals = mean_field(half, image)
    assert torch.equal(free_energy(marginals, half, image), free_energy(marginals.float(), half.float(), image))
    half = half.requires_grad_()
    got = mean_field(half, image)
    got.float().square().mean().backward()
    assert got.dtype == half.grad.dtype == dtype
    assert half.grad.isfinite().all()


@pytest.mark.parametrize(("appearance", "normalization"), [("lattice", "symmetric"), ("attention", "after")])
def test_autocast_changes_nothing(appearance, normalization):
    logits, image, _ = scene(0, 24, 33)
    given = {"appearance": appearance, "normalization": normalization, "compatibility": random_penalties(0, 4).float()}
    marginals = mean_field(logits, image)
    for call in (mean_field, exact_mean_field, layer, lambda *args, **kw: free_energy(marginals, *args, **kw)):
        want = call(logits, image, **given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = call(logits, image, **given)
        assert got.dtype == want.dtype == torch.float32
        assert torch.equal(got, want)
    pictures, grid = [(logits[0], image[0], logits[0].argmax(0))], {"appearance_weight": (1, 5)}
    want = tune(pictures, grid=grid, progress=False, **given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tune(pictures, grid=grid, progress=False, **given).trials == want.trials


def test_float64_is_computed_in_float64():
    logits, image, _ = scene(0, 24, 33)
    got = mean_field(logits.double(), image)
    assert got.dtype == torch.float64
    assert (got.sum(1) - 1).abs().max() < 1e-13


# ---- what is left alone


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("iterations", [0, 1, 5])
def test_inputs_are_never_changed_in_place(iterations, channels_last):
    logits, image, _ = scene(0, 12, 17)
    mu = random_penalties(0, 4).float()
    logits, image = logits.repeat(2, 1, 1, 1), image.float().repeat(2, 1, 1, 1)
    if channels_last:  # labels last in memory already, so that there is no copy to hide behind
        logits, image = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (logits, image))
    kept = logits.clone(), image.clone(), mu.clone()
    for given in ({}, {"smoothness": "lattice"}, {"appearance": "grid"}, {"appearance": "exact"}):
        for call in (mean_field, exact_mean_field, layer):
            for penalties in (None, mu):
                call(logits, image, iterations=iterations, compatibility=penalties, **given).zero_()
                assert all(torch.equal(*pair) for pair in zip((logits, image, mu), kept, strict=True))
    marginals = kept[0].softmax(1)
    free_energy(marginals, logits, image, compatibility=mu)
    assert torch.equal(marginals, kept[0].softmax(1))
    assert all(torch.equal(*pair) for pair in zip((logits, image, mu), kept, strict=True))


def test_the_order_of_the_numbers_in_memory_does_not_matter():
    logits, image, _ = scene(0, 24, 33)
    want = mean_field(logits, image)
    turned = logits.transpose(2, 3).contiguous().transpose(2, 3)
    for other in (turned, logits.contiguous(memory_format=torch.channels_last), logits[:, :, :, :]):
        torch.testing.assert_close(mean_field(other, image), want, rtol=0, atol=1e-6)
    wide = torch.cat([logits, logits], 3)
    torch.testing.assert_close(mean_field(wide[..., :33], image), want, rtol=0, atol=1e-6)


# ---- what is refused


@every_way_in
@pytest.mark.parametrize(
    ("logits", "images"),
    [
        ((4, 24, 33), (3, 24, 33)),
        ((1, 4, 24, 33), (3, 24, 33)),
        ((2, 4, 24, 33), (1, 3, 24, 33)),
        ((1, 4, 24, 33), (1, 3, 33, 24)),
        ((1, 4, 3, 5), (1, 3, 24, 33)),
        ((1, 4, 24, 33), (1, 24, 33, 3)),
        ((0, 4, 24, 33), (0, 3, 24, 33)),
        ((1, 4, 0, 33), (1, 3, 0, 33)),
        ((1, 4, 24, 33), (1, 0, 24, 33)),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_refused_with_both_of_them(call, logits, images):
    with pytest.raises(ValueError, match=r"add a batch dimension with \[None\], and resize the logits") as caught:
        call(torch.zeros(logits), torch.zeros(images))
    assert f"logits are {list(logits)} and images {list(images)}" in str(caught.value)


@every_way_in
def test_logits_must_be_floating_point_and_of_two_classes_at_least(call):
    image = torch.zeros(1, 3, 5, 6)
    for dtype in (torch.uint8, torch.int64):
        with pytest.raises(TypeError, match=rf"logits are {dtype}: allowed is floating point, .* before softmax"):
            call(torch.zeros(1, 4, 5, 6, dtype=dtype), image)
    if call is not layer:  # which refuses to be built for one class
        with pytest.raises(ValueError, match=r"logits are \[1, 1, 5, 6\]: allowed are two classes or more"):
            call(torch.zeros(1, 1, 5, 6), image)


@every_way_in
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_are_refused_with_their_count_and_the_first_place(call, bad):
    logits = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    logits[0, 3, 4, 5] = logits[1, 2, 3, 0] = bad
    with pytest.raises(ValueError, match=r"2 logits are nan or infinite, the first at \[0, 3, 4, 5\] \[n, c, y, x\]"):
        call(logits, torch.zeros(2, 3, 5, 6))
    logits[0, 3, 4, 5] = 0
    with pytest.raises(ValueError, match=r"1 logits are nan or infinite, the first at \[1, 2, 3, 0\].*clamp"):
        call(logits, torch.zeros(2, 3, 5, 6))


@every_way_in
@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (-2.1, 2.6, r"from -2.1 to 2.6: allowed is 0 to 255, .*undo the normalization .*denormalize"),
        (-1.0, 200.0, r"from -1 to 200: allowed is 0 to 255"),
        (0.0, 255.5, r"from 0 to 255.5: allowed is 0 to 255"),
        (0.0, 65535.0, r"from 0 to 65535: allowed is 0 to 255"),
        (0.0, 1.0, r"from 0 to 1, which looks like 0 to 1: .*multiply by 255"),
        (0.2, 1.4, r"from 0.2 to 1.4, which looks like 0 to 1"),
        (0.0, torch.nan, r"nan: allowed is 0 to 255"),
        (0.0, torch.inf, r"from 0 to inf: allowed is 0 to 255"),
    ],
)
def test_pictures_that_are_not_in_0_to_255_are_refused_with_their_range(call, low, high, text):
    image = torch.full((1, 3, 5, 6), low)
    image[0, 1, 2, 3] = high
    with pytest.raises(ValueError, match=f"image values go .*{text}"):
        call(torch.randn(1, 4, 5, 6), image)


def test_denormalize_exists_where_the_message_sends_to():
    from deeplab_lesson.data import denormalize

    assert callable(denormalize)


def test_a_mask_of_0_and_1_in_whole_numbers_is_a_picture():
    assert mean_field(torch.randn(1, 4, 5, 6), torch.ones(1, 1, 5, 6, dtype=torch.uint8)).shape == (1, 4, 5, 6)


@every_way_in
def test_probabilities_given_as_logits_are_warned_of(call):
    logits, image, _ = scene(0, 24, 33)
    with pytest.warns(UserWarning, match=r"look like probabilities.*give probabilities.log\(\)"):
        call(logits.softmax(1), image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(logits, image)
        call(logits.softmax(1).clamp(min=1e-6).log(), image)
        call(torch.rand(1, 4, 24, 33), image)  # between 0 and 1, but no distribution


@every_way_in
@pytest.mark.parametrize("name", ["appearance_sigma_xy", "appearance_sigma_rgb", "smoothness_sigma_xy"])
@pytest.mark.parametrize("value", [0, -1.5, float("nan"), float("inf")])
def test_a_sigma_that_is_not_above_zero_is_refused(call, name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}: allowed are finite numbers above 0; .*weight to 0"):
        call(torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6), **{name: value})


@every_way_in
@pytest.mark.parametrize("name", ["appearance_weight", "smoothness_weight"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_negative_weight_is_refused(call, name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}: allowed are finite numbers from 0; .*negative penalties"):
        call(torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6), **{name: value})


@every_way_in
@pytest.mark.parametrize("value", [-1, 2.5, 5.0, True, "10", None])
def test_a_count_of_iterations_that_makes_no_sense_is_refused(call, value):
    with pytest.raises(ValueError, match=rf"iterations={value!r}: allowed are whole numbers from 0"):
        call(torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6), iterations=value)


@every_way_in
def test_penalties_that_do_not_fit_are_refused(call):
    logits, image = torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6)
    for shape in ((3, 3), (4,), (4, 5), (1, 4, 4)):
        with pytest.raises(ValueError, match=r"classes: allowed is \[4, 4\], the penalty for each pair") as caught:
            call(logits, image, compatibility=torch.ones(shape))
        assert f"compatibility is {list(shape)} and there are 4 classes" in str(caught.value)
    mu = 1 - torch.eye(4)
    mu[1, 2] = 1.5
    with pytest.raises(ValueError, match=r"not symmetric \(entries differ by up to 0.5\): .*take \(m \+ m.T\) / 2"):
        call(logits, image, compatibility=mu)
    for bad in (torch.nan, torch.inf):
        mu[1, 2] = mu[2, 1] = bad
        with pytest.raises(ValueError, match="compatibility holds nan or infinite penalties"):
            call(logits, image, compatibility=mu)
    mu[1, 2] = mu[2, 1] = -0.5  # pushes labels together, as the message about weights says
    call(logits, image, compatibility=mu)


@every_way_in
@pytest.mark.parametrize("value", ["none", "before", "Symmetric", None, 3])
def test_an_unknown_normalization_is_refused(call, value):
    with pytest.raises(ValueError, match=rf'normalization={value!r}: allowed are "symmetric" .*pydensecrf.* "after"'):
        call(torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6), normalization=value)


@pytest.mark.parametrize("operator", [PermutohedralLattice, BilateralGrid])
def test_the_operators_refuse_an_unknown_normalization_as_well(operator):
    with pytest.raises(ValueError, match="normalization='before': allowed are"):
        operator(torch.zeros(3, 2), normalization="before")


def test_an_unknown_kernel_is_refused():
    logits, image = torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6)
    with pytest.raises(ValueError, match="appearance='lattise': allowed are 'lattice', 'grid', 'attention', 'exact'"):
        mean_field(logits, image, appearance="lattise")
    with pytest.raises(ValueError, match="smoothness='grid': allowed are 'exact', 'lattice'"):
        mean_field(logits, image, smoothness="grid")
    with pytest.raises(ValueError, match=r"normalization='symmetric': attention divides .*normalization=\"after\""):
        mean_field(logits, image, appearance="attention")


@pytest.mark.parametrize(("appearance", "sigma"), [("lattice", 0.005), ("grid", 0.0001)])
def test_a_sigma_so_small_that_the_cells_cannot_be_numbered_is_refused(appearance, sigma):
    logits, image = noise(0, height=24, width=33)
    image[0, :, 0, 0], image[0, :, 0, 1] = 0, 255
    with pytest.raises(ValueError, match=r"spread over \[.*\] cells.* larger sigma .*units of 0 to 255"):
        mean_field(logits, image, appearance=appearance, appearance_sigma_rgb=sigma)
    assert mean_field(logits, image, appearance=appearance, appearance_sigma_rgb=0.5).isfinite().all()
    with pytest.raises(ValueError, match=r"spread over \[.*\] cells"):
        mean_field(logits, image.repeat(1, 3, 1, 1), appearance=appearance, appearance_sigma_rgb=0.5)


@every_way_in
def test_an_unknown_parameter_is_refused_and_the_nearest_name_offered(call):
    logits, image = torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6)
    for wrong, right in (("apearance_weight", "appearance_weight"), ("sigma_rgb", "appearance_sigma_rgb")):
        with pytest.raises(
            TypeError, match=rf"no parameter '{wrong}'; did you mean {right}\? \(all: appearance_weight"
        ):
            call(logits, image, **{wrong: 3})
    with pytest.raises(TypeError, match=r"no parameter 'zzz' \(all: "):
        call(logits, image, zzz=3)


def test_exact_mean_field_refuses_large_pictures_unless_told_otherwise():
    logits, image, _ = scene(0, 24, 33)
    with pytest.raises(ValueError, match=r"has 24x33 = 792 pixels: allowed are 700, .*use mean_field, .*max_pixels"):
        exact_mean_field(logits, image, max_pixels=700)
    assert exact_mean_field(logits, image, max_pixels=792, iterations=1).shape == logits.shape
    with pytest.raises(ValueError, match=r"has 150x140 = 21000 pixels: allowed are 20000"):
        exact_mean_field(torch.zeros(1, 2, 150, 140), torch.zeros(1, 3, 150, 140))


def test_marginals_of_another_shape_are_refused():
    logits, image, _ = scene(0, 24, 33)
    with pytest.raises(ValueError, match=r"marginals are \[1, 3, 24, 33\] and logits \[1, 4, 24, 33\]: allowed is one"):
        free_energy(logits[:, :3].softmax(1), logits, image)


def test_parameters_are_checked_when_they_are_made():
    assert CRFParameters() == CRFParameters(**PRESETS["deeplab_v1"])
    with pytest.raises(ValueError, match="appearance_sigma_xy=0: allowed"):
        CRFParameters(appearance_sigma_xy=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_two_devices_are_refused():
    logits, image, _ = scene(0, 24, 33)
    with pytest.raises(ValueError, match=r"logits are on cuda:0 and images on cpu: move one of them with .to\(\)"):
        mean_field(logits.cuda(), image)
    with pytest.raises(ValueError, match="compatibility is on cpu and the logits on cuda:0"):
        mean_field(logits.cuda(), image.cuda(), compatibility=1 - torch.eye(4))


def test_tensors_on_two_devices_are_refused_without_a_gpu():
    with pytest.raises(ValueError, match=r"logits are on cpu and images on meta: move one of them with .to\(\)"):
        mean_field(torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6, device="meta"))
    with pytest.raises(ValueError, match="compatibility is on meta and the logits on cpu"):
        mean_field(torch.zeros(1, 4, 5, 6), torch.zeros(1, 3, 5, 6), compatibility=torch.ones(4, 4, device="meta"))
