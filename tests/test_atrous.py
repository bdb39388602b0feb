"""Atrous convolution: three ways to write it that agree with PyTorch's, and the counts that explain its limits."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from deeplab_lesson.layers import dilation
from deeplab_lesson.layers.atrous import (
    atrous_by_phases,
    atrous_by_sum,
    atrous_by_zero_inserted_kernel,
    effective_kernel_size,
    gridding_coverage,
    valid_weight_counts,
)

THREE_WAYS = (atrous_by_sum, atrous_by_zero_inserted_kernel, atrous_by_phases)


@pytest.mark.parametrize("ours", THREE_WAYS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_each_way_equals_pytorch_for_random_shapes_strides_and_paddings(ours, data):
    axes = data.draw(st.integers(1, 2), "axes")
    rate, stride, padding = (data.draw(st.integers(low, high)) for low, high in ((1, 5), (1, 4), (0, 6)))
    kernel = [data.draw(st.integers(1, 4)) for _ in range(axes)]
    size = [data.draw(st.integers(1, 14)) for _ in range(axes)]
    channels, outputs, batch = (data.draw(st.integers(1, 3)) for _ in range(3))
    assume(all(n + 2 * padding >= rate * (k - 1) + 1 for n, k in zip(size, kernel, strict=True)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    inputs = torch.randn(batch, channels, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, channels, *kernel, generator=generator, dtype=torch.float64)
    convolve = F.conv1d if axes == 1 else F.conv2d
    want = convolve(inputs, weight, stride=stride, padding=padding, dilation=rate)
    got = ours(inputs, weight, rate, stride=stride, padding=padding)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_the_sum_is_the_formula_of_v2_on_numbers_that_can_be_checked_by_hand():
    x = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])
    w = torch.tensor([[[1.0, 10.0, 100.0]]])
    assert atrous_by_sum(x, w, rate=2).tolist() == [[[1 + 30 + 500, 2 + 40 + 600]]]


@pytest.mark.parametrize("ours", THREE_WAYS)
def test_gradients_reach_inputs_and_weights_in_each_way(ours):
    inputs = torch.randn(1, 2, 7, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: ours(x, w, 2, stride=2, padding=1), (inputs, weight))


@pytest.mark.parametrize("ours", THREE_WAYS)
def test_what_does_not_fit_is_refused(ours):
    with pytest.raises(ValueError, match=r"spans 7 x 7 does not fit into an input of 6 x 8.*lower rate"):
        ours(torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 3, 3), 3)
    with pytest.raises(ValueError, match=r"\[1, 2, 9\] and weight \[1, 3, 3\] do not fit"):
        ours(torch.zeros(1, 2, 9), torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match="do not fit"):
        ours(torch.zeros(1, 2, 9), torch.zeros(1, 2, 3, 3))
    with pytest.raises(ValueError, match=r"rate=0: allowed are whole numbers from 1"):
        ours(torch.zeros(1, 1, 9), torch.zeros(1, 1, 3), 0)


@pytest.mark.parametrize(
    ("kernel", "rate", "span"), [(3, 1, 3), (3, 2, 5), (3, 4, 9), (7, 4, 25), (4, 4, 13), (1, 9, 1)]
)
def test_effective_kernel_size_is_the_span_of_the_taps(kernel, rate, span):
    assert effective_kernel_size(kernel, rate) == span
    taps = [rate * k for k in range(kernel)]
    assert taps[-1] - taps[0] + 1 == span


# gridding -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rates", "touched"), [((2, 2, 2), 49), ((1, 2, 3), 169)])
def test_equal_rates_leave_a_grid_and_growing_rates_do_not(rates, touched):
    paths = gridding_coverage(rates)
    assert paths.shape == (13, 13)
    assert (paths > 0).sum() == touched
    assert paths.sum() == 9**3, "every choice of taps is one path"


@settings(max_examples=25, deadline=None)
@given(rates=st.lists(st.integers(1, 4), min_size=1, max_size=3), kernel=st.integers(1, 4))
def test_coverage_is_the_gradient_of_a_stack_of_convolutions_with_unit_weights(rates, kernel):
    size = 1 + sum(rate * (kernel - 1) for rate in rates)
    image = torch.zeros(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    features = image
    for rate in rates:
        features = F.conv2d(features, torch.ones(1, 1, kernel, kernel, dtype=torch.float64), dilation=rate)
    features.sum().backward()  # one output position
    assert features.shape[2:] == (1, 1)
    assert torch.equal(gridding_coverage(rates, kernel), image.grad[0, 0].long())


# valid weights --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), rate=st.integers(1, 24), kernel=st.sampled_from([1, 3, 5]))
def test_valid_weights_are_the_convolution_of_a_map_of_ones(height, width, rate, kernel):
    ones = torch.ones(1, 1, height, width)
    want = F.conv2d(ones, torch.ones(1, 1, kernel, kernel), padding=rate * (kernel // 2), dilation=rate)
    assert torch.equal(valid_weight_counts((height, width), rate, kernel), want[0, 0].long())


def test_a_3x3_kernel_at_a_rate_near_the_size_of_the_map_is_a_1x1_kernel():
    """v3 figure 4: on a 65x65 map, a crop of 513 at output stride 8."""
    one = (valid_weight_counts((65, 65), 64) == 1).float().mean().item()
    four = (valid_weight_counts((65, 65), 32) == 4).float().mean().item()
    assert round(100 * one, 1) == 93.9
    assert round(100 * four, 1) == 96.9
    assert (valid_weight_counts((65, 65), 65) == 1).all()


@pytest.mark.parametrize(("crop", "size", "mean"), [(513, 33, 3.64), (321, 21, 1.65)])
def test_the_rate_18_branch_has_more_valid_weights_on_the_larger_crop(crop, size, mean):
    assert math.ceil(crop / 16) == size
    assert round(valid_weight_counts((size, size), 18).float().mean().item(), 2) == mean


def test_an_even_kernel_has_no_middle():
    with pytest.raises(ValueError, match="kernel_size=4: allowed are odd numbers"):
        valid_weight_counts((8, 8), 2, 4)


def test_the_package_exports_plan_dilation():
    import deeplab_lesson

    assert deeplab_lesson.plan_dilation is dilation.plan_dilation
