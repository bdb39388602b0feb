"""The fully connected CRF and its mean field.

    E(x) = sum_i U_i(x_i) + sum_{i<j} mu(x_i, x_j) (w_a k_a(i, j) + w_s k_s(i, j)),     U_i(l) = -log P_i(l)

with the appearance kernel k_a (position and color) and the smoothness kernel k_s (position). Mean field looks for the
product of marginals Q_i nearest to exp(-E) / Z, by updating all of them at once:

    Q_i(l) <- softmax over l of  -U_i(l) - sum_l' mu(l, l') (w_a K_a Q + w_s K_s Q)_i(l')

As in the published codes, K is a normalized kernel that includes the pixel itself.

Source: Krähenbühl, Koltun 2011 (arXiv 1210.5644); v1 section 4.2 (arXiv 1412.7062); v2 section 3.3 (1606.00915).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from deeplab_lesson.crf.checks import check_compatibility, check_inputs, check_marginals
from deeplab_lesson.crf.kernels import ExactKernel, Kernel, build_kernels, kernel_features, labels_last
from deeplab_lesson.crf.parameters import CRFParameters, read_parameters

MOST_EXACT_PIXELS = 20_000
SMALLEST_SUM = 1e-30  # of powers in float32, which are exact from 1e-38
PIXELS_AT_ONCE = {"cpu": 2**18, "cuda": 2**23}  # of a batch: images are independent, and their lattices take memory

Terms = Sequence[tuple[Tensor, Kernel]]


def mean_field(logits: Tensor, images: Tensor, **parameters: Any) -> Tensor:
    """Return the marginals of the fully connected CRF after some iterations of mean field.

    Args:
        logits: float [N, C, H, W], a network's output before softmax: -U up to a constant for each pixel.
        images: [N, channels, H, W] in 0..255, not normalized; any number of channels.
        parameters: the fields of CRFParameters, or `**PRESETS["deeplab_v2_vgg16"]`.

    Returns:
        Marginals [N, C, H, W] in the logits' type (half precision is computed in float32), in channels-last order in
        memory. They sum to 1 at each pixel.

    Raises:
        TypeError, ValueError: as in `check_inputs`, CRFParameters, PermutohedralLattice.
    """
    return labels_first(infer(logits, images, read_parameters(parameters)), torch.softmax).to(logits.dtype)


def exact_mean_field(
    logits: Tensor, images: Tensor, *, max_pixels: int = MOST_EXACT_PIXELS, **parameters: Any
) -> Tensor:
    """Do as `mean_field`, over every pair of pixels: the definition, to compare others with.

    Time grows with (H W)^2. Both kernels are exact, whatever `appearance` and `smoothness` say.

    Raises:
        ValueError: an image of more than `max_pixels` pixels.
    """
    settings = read_parameters(parameters)
    _check(logits, images, settings)
    height, width = logits.shape[2:]
    if height * width > max_pixels:
        raise ValueError(
            f"the image has {height}x{width} = {height * width} pixels: allowed are {max_pixels}, since the time grows "
            "with their square; use mean_field, a smaller image, or max_pixels=..."
        )
    scores = labels_last(logits)
    weights = (settings.appearance_weight, settings.smoothness_weight)
    with torch.autocast(logits.device.type, enabled=False):
        kernels = [ExactKernel(points, settings.normalization) for points in kernel_features(scores, images, settings)]
        terms = [(scores.new_tensor(weight), kernel) for weight, kernel in zip(weights, kernels, strict=True)]
        field = iterate(scores, terms, settings.iterations, settings.compatibility)
    return labels_first(field, torch.softmax).to(logits.dtype)


def free_energy(marginals: Tensor, logits: Tensor, images: Tensor, **parameters: Any) -> Tensor:
    """Return what mean field lowers, sum Q log Q + sum U Q + 1/2 sum_ij Q_i mu K_ij Q_j, for each image [N].

    The half is there because the double sum meets each pair twice; pydensecrf's klDivergence leaves it out. Up to
    log Z this is KL(Q || P), with a K that counts the pixel itself, as in the updates.

    Args:
        marginals: [N, C, H, W], such as `mean_field` returns.
        logits, images, parameters: as in `mean_field`.

    Raises:
        TypeError, ValueError: as in `mean_field`; marginals of another shape, type or device, or outside of 0 to 1.
    """
    settings = read_parameters(parameters)
    _check(logits, images, settings)
    if marginals.shape != logits.shape:
        raise ValueError(
            f"marginals are {list(marginals.shape)} and logits {list(logits.shape)}: allowed is one shape, [N, C, H, W]"
        )
    check_marginals(marginals, logits)
    scores, q = labels_last(logits), labels_last(marginals)
    penalties = settings.compatibility
    if penalties is None:
        penalties = 1 - torch.eye(logits.shape[1], device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        messages = torch.zeros_like(q)
        for weight, kernel in _terms(scores, images, settings):
            messages = messages + weight * kernel(q)
        pairs = 0.5 * (messages @ penalties.to(messages))
    return (torch.xlogy(q, q) + q * (pairs - scores.log_softmax(-1))).sum((1, 2, 3))


def infer(
    logits: Tensor, images: Tensor, settings: CRFParameters, weights: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Run mean field and return [N, H, W, C] whose softmax over C is Q, in float32 (float64 for float64).

    Args:
        weights: of appearance and smoothness, in place of the settings' own; the module learns them.
    """
    _check(logits, images, settings)
    at_once = max(1, PIXELS_AT_ONCE.get(logits.device.type, 2**20) // (logits.shape[2] * logits.shape[3]))
    fields = []
    with torch.autocast(logits.device.type, enabled=False):
        for first in range(0, len(logits), at_once):
            scores = labels_last(logits[first : first + at_once])
            terms = _terms(scores, images[first : first + at_once], settings, weights)
            fields.append(iterate(scores, terms, settings.iterations, settings.compatibility))
    return fields[0] if len(fields) == 1 else torch.cat(fields)


def iterate(scores: Tensor, terms: Terms, iterations: int, compatibility: Tensor | None = None) -> Tensor:
    """Update all marginals at once, `iterations` times.

    Args:
        scores: [N, H, W, C], the negative unary energies.
        terms: a weight and a kernel each.
        compatibility: penalties [C, C]; None is Potts, without the constant that softmax cancels.

    Returns:
        [N, H, W, C], whose softmax over C is Q.
    """
    penalties = None if compatibility is None else compatibility.to(scores)
    learned = [scores, *(weight for weight, _ in terms), *([] if penalties is None else [penalties])]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned):
        return _iterate_with_gradient(scores, terms, iterations, penalties)
    field, marginals = scores.clone(), torch.empty_like(scores)
    for _ in range(iterations):
        _softmax(field, out=marginals)
        sum_so_far = scores if penalties is None else field.zero_()
        for weight, kernel in terms:
            kernel.add_to(sum_so_far, marginals, weight, out=field)
            sum_so_far = field
        if penalties is not None:
            field = scores - field @ penalties
    return field


def _softmax(field: Tensor, out: Tensor) -> None:
    """Write the softmax over the last dimension into `out`.

    On a CPU without subtracting each row's largest number first: for rows of some twenty numbers that takes as long as
    all the rest. Where the powers leave the range of the type, the sums tell.
    """
    if field.device.type == "cpu":
        sums = torch.mul(field, math.log2(math.e), out=out).exp2_().sum(-1, keepdim=True)
        lowest, highest = sums.aminmax()
        if lowest > SMALLEST_SUM and highest < math.inf:
            out.div_(sums)
            return
    torch.softmax(field, -1, out=out)


def _iterate_with_gradient(scores: Tensor, terms: Terms, iterations: int, penalties: Tensor | None) -> Tensor:
    field = scores
    for _ in range(iterations):
        marginals, messages = field.softmax(-1), torch.zeros_like(scores)
        for weight, kernel in terms:
            messages = messages + weight * kernel(marginals)
        field = scores + messages if penalties is None else scores - messages @ penalties
    return field


def labels_first(field: Tensor, normalize: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Apply softmax or log-softmax over the labels, and turn [N, H, W, C] into [N, C, H, W]."""
    if field.requires_grad:  # the backward pass of a softmax over the last dimension refuses a permuted gradient
        return normalize(field.permute(0, 3, 1, 2), 1)
    return normalize(field, -1).permute(0, 3, 1, 2)


def _check(logits: Tensor, images: Tensor, settings: CRFParameters) -> None:
    check_inputs(logits, images)
    if settings.compatibility is not None:
        check_compatibility(settings.compatibility, logits.shape[1], logits.device)


def _terms(
    scores: Tensor, images: Tensor, settings: CRFParameters, weights: tuple[Tensor, Tensor] | None = None
) -> Terms:
    """Pair each kernel with its weight."""
    if weights is None:
        weights = (scores.new_tensor(settings.appearance_weight), scores.new_tensor(settings.smoothness_weight))
    return [(w.to(scores), kernel) for w, kernel in zip(weights, build_kernels(scores, images, settings), strict=True)]
