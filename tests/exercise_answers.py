"""A second correct answer to each exercise, written in another way than the reference."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from deeplab_lesson import gradient_receptive_field
from deeplab_lesson.data import VOC_PALETTE


def palette_id(color: list[int]) -> np.int64:
    return (np.array(color) == VOC_PALETTE).all(axis=1).argmax()


def confusion_matrix(truth: torch.Tensor, answer: torch.Tensor, num_classes: int) -> torch.Tensor:
    true, answered = (F.one_hot(ids.flatten() % 255, num_classes).double() for ids in (truth, answer))
    return (true * (truth.flatten() != 255)[:, None]).T @ answered


def mean_iou(counts: torch.Tensor) -> np.float64:
    table = counts.numpy()
    with np.errstate(invalid="ignore"):  # 0 / 0, which nanmean leaves out
        return np.nanmean(np.diag(table) / (table.sum(axis=0) + table.sum(axis=1) - np.diag(table)))


def mean_iou_by_class(counts: torch.Tensor) -> torch.Tensor:
    ious = []
    for class_id, row in enumerate(counts.tolist()):
        covered = sum(row) + int(counts[:, class_id].sum()) - row[class_id]
        ious += [row[class_id] / covered] if covered else []
    return torch.tensor(sum(ious) / len(ious))


def boundary_band(labels: torch.Tensor, width: int) -> torch.Tensor:
    """Compare the map with itself, moved by each step of the square."""
    height, breadth = labels.shape
    padded = F.pad(labels, [width] * 4, value=-1)
    band = torch.zeros_like(labels, dtype=torch.bool)
    for down, right in itertools.product(range(2 * width + 1), repeat=2):
        moved = padded[down : down + height, right : right + breadth]
        band |= (moved != labels) & (moved != -1)
    return band


def name_regions(regions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    votes = F.one_hot(labels, 256) * (labels != 255)[..., None]  # [H, W, 256]
    counts = torch.zeros(int(regions.max()) + 1, 256, dtype=torch.int64)
    counts.index_add_(0, regions.flatten(), votes.flatten(0, 1))
    names = torch.where(counts.sum(dim=1) > 0, counts.argmax(dim=1), 255)
    return names[regions]


def effective_kernel(kernel_size: int, rate: int) -> int:
    taps = range(0, kernel_size * rate, rate)
    return taps[-1] - taps[0] + 1


def convolve(signal: torch.Tensor, kernel: torch.Tensor, rate: int) -> torch.Tensor:
    return signal.unfold(0, (len(kernel) - 1) * rate + 1, 1)[:, ::rate] @ kernel


def insert_zeros(kernel: torch.Tensor, rate: int) -> torch.Tensor:
    block = torch.zeros(rate, rate)
    block[0, 0] = 1
    spread = torch.kron(kernel, block)
    return spread[: spread.shape[0] - rate + 1, : spread.shape[1] - rate + 1].double()


def output_length(n: int, kernel_size: int, rate: int, stride: int, padding: int) -> int:
    first_pixels = range(-padding, n + padding - (kernel_size - 1) * rate, stride)
    return len(first_pixels)


def touched_positions(rates: list[int]) -> tuple[int, ...]:
    return tuple(sorted({sum(steps) for steps in itertools.product(*((-rate, 0, rate) for rate in rates))}))


def valid_weights(height: int, width: int, rate: int, row: int, column: int) -> np.int64:
    ones = np.zeros((height + 2 * rate, width + 2 * rate), dtype=np.int64)
    ones[rate : rate + height, rate : rate + width] = 1
    return ones[row : row + 2 * rate + 1 : rate, column : column + 2 * rate + 1 : rate].sum()


def size_of_stack(layers: list[tuple[int, int, int]]) -> torch.Tensor:
    size = 1
    for kernel_size, stride, rate in reversed(layers):
        size = (size - 1) * stride + (kernel_size - 1) * rate + 1
    return torch.tensor(size)


def stride_and_start(layers: list[tuple[int, int, int, int]]) -> list[int]:
    first, second = 0, 1  # the first pixel that outputs 0 and 1 read
    for _, stride, _, padding in layers[::-1]:
        first, second = first * stride - padding, second * stride - padding
    return [second - first, first]


def choose_rates(layers: int, field: int) -> list[int]:
    """Search; it finds other rates than the reference does."""
    for rates in itertools.product(range(1, field), repeat=layers):
        if 2 * sum(rates) + 1 == field and len(touched_positions(list(rates))) == field:
            return list(rates)[::-1]
    raise AssertionError


def plan_layers(strides: list[int], output_stride: int) -> list[list[int]]:
    totals = [1, *itertools.accumulate(strides, lambda total, stride: total * stride)]
    plan = []
    for before, after in itertools.pairwise(totals):
        stride = after // before if after <= output_stride else 1
        plan.append([stride, max(1, before // output_stride)])
    return plan


def measure(network: torch.nn.Module, height: int, width: int) -> tuple[float, float]:
    return gradient_receptive_field(network, (height, width)).size


def measure_by_pixels(network: torch.nn.Module, height: int, width: int) -> tuple[int, int]:
    """Change one row or column after the other and see whether the output notices. No gradient at all."""
    with torch.no_grad():
        size = network(torch.zeros(1, 1, height, width)).shape
        rows = torch.eye(height).view(height, 1, height, 1).expand(-1, -1, -1, width)
        columns = torch.eye(width).view(width, 1, 1, width).expand(-1, -1, height, -1)
        seen = [network(lines)[:, 0, size[2] // 2, size[3] // 2].nonzero().flatten() for lines in (rows, columns)]
    return tuple(int(places[-1] - places[0]) + 1 for places in seen)


def two_fields(kernel_size: int, rate: int) -> list[int]:
    taps = range(0, 8 * rate * kernel_size, 8 * rate)
    return [taps[-1] + cell for cell in (32, 212)]


def learning_rate(iteration: int, base: float, every: int) -> torch.Tensor:
    while iteration >= every:
        iteration, base = iteration - every, base / 10
    return torch.tensor(base, dtype=torch.float64)


def convolution_weight(weight: torch.Tensor, channels: int, size: int) -> torch.Tensor:
    rows = [weight[:, start : start + size] for start in range(0, weight.shape[1], size)]
    maps = [torch.stack(rows[start : start + size], dim=1) for start in range(0, len(rows), size)]
    assert len(maps) == channels
    return torch.stack(maps, dim=1).double()


def subsample_taps(weight: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Nearest-neighbor shrinking with the corners on top of each other."""
    places = np.linspace(0, weight.shape[2] - 1, kernel_size).astype(int)
    return weight[:, :, torch.tensor(places)[:, None], torch.tensor(places)]


def head_parameters(kernel_size: int, channels: int, classes: int) -> np.int64:
    shapes = [(channels, 512, kernel_size, kernel_size), (channels, channels), (classes, channels)]
    return np.int64(sum(np.prod(shape) for shape in shapes) + 2 * channels + classes)


def convolve_with_torch(signal: torch.Tensor, kernel: torch.Tensor, rate: int) -> torch.Tensor:
    return F.conv1d(signal.view(1, 1, -1), kernel.view(1, 1, -1), dilation=rate).flatten()


def transposed_size(n: int, kernel_size: int, stride: int, padding: int) -> torch.Tensor:
    """Count what an ordinary convolution would have read: the smallest input from which it makes n."""
    size = kernel_size
    while (size - kernel_size) // stride + 1 < n:
        size += 1
    return torch.tensor(size - 2 * padding)


def overlap_counts(n: int, kernel_size: int, stride: int) -> np.ndarray:
    matrix = np.zeros(((n - 1) * stride + kernel_size, n), dtype=int)
    for i in range(n):
        matrix[i * stride : i * stride + kernel_size, i] = 1
    return matrix.sum(axis=1)


def bilinear_kernel(factor: int) -> torch.Tensor:
    """A tent is a box convolved with a box."""
    box = np.ones(factor) / factor
    tent = np.convolve(box, np.ones(factor))  # 2 * factor - 1 taps, with its top on the middle one
    return torch.tensor(np.convolve(tent, [0.5, 0.5]))


def transposed_convolution(signal: torch.Tensor, kernel: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    """Zeros between the inputs, and an ordinary convolution with the kernel turned around."""
    spread = torch.zeros((len(signal) - 1) * stride + 1)
    spread[::stride] = signal
    turned = kernel.flip(0).view(1, 1, -1)
    return F.conv1d(spread.view(1, 1, -1), turned, padding=len(kernel) - 1 - padding).flatten()


def unpool(values: torch.Tensor, indices: torch.Tensor, height: int, width: int) -> torch.Tensor:
    one_hot = F.one_hot(indices.flatten(), height * width).float()  # [places of the small map, of the large one]
    return (values.flatten() @ one_hot).view(height, width)


def energy(unary: torch.Tensor, labels: torch.Tensor, weight: float) -> np.float64:
    height, width = labels.shape
    total = np.float64(0)
    for row, column in itertools.product(range(height), range(width)):
        total += float(unary[labels[row, column], row, column])
        for other in ((row + 1, column), (row, column + 1)):
            if other[0] < height and other[1] < width and labels[row, column] != labels[other]:
                total += weight
    return total


def appearance(first: list[int], second: list[int], sigma_xy: float, sigma_rgb: float) -> torch.Tensor:
    sigmas = torch.tensor([sigma_xy] * 2 + [sigma_rgb] * 3).double()
    f, g = (torch.tensor(pixel).double() / sigmas for pixel in (first, second))
    return (f @ g - f @ f / 2 - g @ g / 2).exp()


def update(unary: torch.Tensor, kernel: torch.Tensor, marginals: torch.Tensor) -> torch.Tensor:
    """By the costs of disagreement, which differ from the messages by a constant."""
    costs = torch.einsum("ij,lj->li", kernel, 1 - marginals)
    likely = torch.exp(-unary - costs).double()
    return likely / likely.sum(dim=0)


def free_energy(unary: torch.Tensor, kernel: torch.Tensor, marginals: torch.Tensor) -> torch.Tensor:
    """Over all labelings: the mean of energy + log Q."""
    total = torch.tensor(0.0)
    classes, pixels = unary.shape
    for labels in itertools.product(range(classes), repeat=pixels):
        own = torch.tensor(labels)
        q = marginals[own, range(pixels)].prod()
        pairs = (kernel - torch.diag(kernel.diag())) * (own[:, None] != own)
        total += q * (unary[own, range(pixels)].sum() + pairs.sum() / 2 + q.log())
    return total + (kernel.diag() * (1 - marginals.square().sum(dim=0))).sum() / 2


def splat_and_slice(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    return torch.stack([values[cells == cell].double().mean(dim=0) for cell in cells])


def steps_for(epochs: int, pictures: int, batch_size: int) -> int:
    seen, steps = 0, 0
    while seen < epochs * pictures:
        seen, steps = seen + batch_size, steps + 1
    return steps


def rate_at(step: int, rate: float, batch_size: int, new_batch_size: int, warmup: int) -> float:
    per_picture = rate / batch_size
    if step >= warmup:
        return per_picture * new_batch_size
    return sum(per_picture * new_batch_size / warmup for _ in range(step + 1))


def ids_of_colors(mask: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    ids = torch.full(mask.shape[:2], 255)
    for class_id, color in enumerate(colors):
        ids[(mask - color).abs().amax(dim=2) == 0] = class_id
    return ids


def two_looks(logits: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    columns = torch.arange(logits.shape[2] - 1, -1, -1)
    return torch.stack([F.softmax(logits, 0), F.softmax(mirrored, 0)[..., columns]]).mean(dim=0)


def own_pictures(pictures: int, rank: int, processes: int) -> list[int]:
    return [number for number in range(pictures) if (number - rank) % processes == 0]


def cross_entropy_with_void(logits: torch.Tensor, labels: torch.Tensor) -> float:
    counted = [(column, int(label)) for column, label in zip(logits.double().T, labels, strict=True) if label != 255]
    losses = [float(column.logsumexp(dim=0) - column[label]) for column, label in counted]
    return float(np.mean(losses)) if losses else 0.0


def running_mean(start: float, batch_mean: float, momentum: float, steps: int) -> float:
    for _ in range(steps):
        start += momentum * (batch_mean - start)
    return start


def dice(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    truth = F.one_hot(labels, 256)[:, : len(probabilities)].T  # void becomes no class
    shared = (probabilities * truth).sum(dim=1)
    sizes = (probabilities * (labels != 255)).sum(dim=1) + truth.sum(dim=1)
    return 1 - (2 * shared / sizes)[truth.any(dim=1)].mean()


def lovasz(errors: torch.Tensor, truth: torch.Tensor) -> float:
    """An integral: 1 - IoU of the pixels whose errors lie above a bar, over all bars from 0 to 1."""
    bars = [0.0, *sorted(errors.tolist())]
    total = 0.0
    for low, high in itertools.pairwise(bars):
        said = truth ^ (errors > low)
        total += (high - low) * (1 - int((said & truth).sum()) / int((said | truth).sum()))
    return total


def adam(gradients: list[float], learning_rate: float) -> float:
    parameter = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([parameter], lr=learning_rate)
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return parameter.item()


def count_weights(kernel_size: int, in_channels: int, out_channels: int) -> int:
    plain = torch.nn.Conv2d(in_channels, out_channels, kernel_size, bias=False, device="meta").weight.numel()
    return round(plain * (1 / out_channels + 1 / kernel_size**2))


def merge_kernels(depthwise: torch.Tensor, pointwise: torch.Tensor) -> torch.Tensor:
    """By the pixels that the two steps answer to: the gradient is the kernel."""
    size = depthwise.shape[1]
    pixels = torch.zeros(1, len(depthwise), size, size, requires_grad=True)
    mixed = F.conv2d(F.conv2d(pixels, depthwise[:, None], groups=len(depthwise)), pointwise[:, :, None, None])
    return torch.cat([torch.autograd.grad(output, pixels, retain_graph=True)[0] for output in mixed.flatten()])


def joined_shape(height: int, width: int, low_level: int, encoded: int) -> torch.Tensor:
    picture = torch.empty(1, 1, height, width, device="meta")
    small = F.max_pool2d(F.max_pool2d(picture, 3, 2, 1), 3, 2, 1)
    return torch.tensor([low_level + encoded, *small.shape[2:]])


def fuse(low_level: torch.Tensor, encoded: torch.Tensor, reduce: torch.Tensor) -> torch.Tensor:
    reduced = F.relu(F.conv2d(low_level[None], reduce[:, :, None, None])).double()
    return torch.cat([reduced, F.interpolate(encoded[None], reduced.shape[2:], mode="bilinear").double()], dim=1)[0]


def coarse_labels(labels: torch.Tensor, num_classes: int, stride: int) -> torch.Tensor:
    best, answer = torch.full(labels.shape, -1.0), torch.zeros(labels.shape, dtype=torch.int32)
    for class_id in range(num_classes):
        cells = (labels == class_id).double().unflatten(0, (-1, stride)).unflatten(2, (-1, stride)).mean(dim=(1, 3))
        share = F.interpolate(cells[None, None], scale_factor=stride, mode="bilinear")[0, 0].float()
        answer[share > best] = class_id
        best = torch.maximum(best, share)
    return answer


def first_useless_rate(height: int, width: int, output_stride: int) -> np.int64:
    return np.ceil(np.maximum(height, width) / output_stride).astype(int)


def field_of_pyramid(rates: list[int], output_stride: int, seen: int) -> int:
    """From the first pixel that a branch sees to its last one."""
    return max(rate * output_stride + seen - 1 - (-rate * output_stride) + 1 for rate in rates)


def sum_of_branches(features: torch.Tensor, weights: torch.Tensor, rates: list[int]) -> torch.Tensor:
    """As one large kernel: zeros between the weights, and all branches added before they are applied."""
    reach = max(rates)
    kernel = torch.zeros(*weights.shape[1:3], 2 * reach + 1, 2 * reach + 1)
    for weight, rate in zip(weights, rates, strict=True):
        places = slice(reach - rate, reach + rate + 1, rate)
        kernel[:, :, places, places] += weight
    return F.conv2d(features, kernel, padding=reach)


def image_pooling(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The 1x1 first, and the mean of its map afterwards: both are linear."""
    mixed = torch.einsum("nchw,oc->nohw", features.double(), weight.double())
    return torch.ones_like(mixed) * mixed.mean(dim=(2, 3), keepdim=True)


def multi_grid_rates(output_stride: int, block: int, unit_rates: list[int]) -> torch.Tensor:
    rate, reached = 1, 16  # in front of block 4
    for _ in range(4, block + 1):
        reached *= 2
        rate *= 2 if reached > output_stride else 1
    earlier = max(1, 16 // output_stride)  # strides that were taken out before block 4
    return torch.tensor(unit_rates) * rate * earlier


def fuse_scales(scores: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    likes = attention.double().exp()
    return torch.einsum("shw,schw->chw", likes, scores.double()) / likes.sum(dim=0)


def keep_labels(percent: torch.Tensor, thresholds: list[int]) -> torch.Tensor:
    labels = torch.full(percent.shape[1:], 255)
    for class_id, threshold in enumerate(thresholds):
        others = torch.cat([percent[:class_id], percent[class_id + 1 :]]).amax(dim=0)
        labels[(percent[class_id] > others) & (percent[class_id] >= threshold)] = class_id
    return labels


def quality_from_areas(overlap: torch.Tensor, predicted: torch.Tensor, true: torch.Tensor) -> float:
    """SQ times RQ."""
    matches = []
    for (row, column), shared in np.ndenumerate(overlap.numpy()):
        union = int(predicted[row] + true[column]) - int(shared)
        matches += [int(shared) / union] if 2 * shared > union else []
    if not matches:
        return 0.0
    return sum(matches) / len(matches) * 2 * len(matches) / (len(predicted) + len(true))


def group_pixels(centers: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    _, height, width = offset.shape
    down = torch.arange(height)[:, None] + offset[0]  # [H, W]
    right = torch.arange(width) + offset[1]
    distances = torch.stack([(down - row) ** 2 + (right - column) ** 2 for row, column in centers.tolist()])
    return distances.min(dim=0).indices + 1


def classify_masks(masks: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    likely = classes.exp() / classes.exp().sum(dim=1, keepdim=True)
    return sum(one[:-1, None, None] * F.sigmoid(mask) for mask, one in zip(masks, likely, strict=True))


SECOND_ANSWERS: list[tuple[str, Callable[..., Any]]] = [
    ("segmentation.palette_id", palette_id),
    ("segmentation.confusion_matrix", confusion_matrix),
    ("segmentation.mean_iou", mean_iou),
    ("segmentation.mean_iou", mean_iou_by_class),
    ("segmentation.boundary_band", boundary_band),
    ("segmentation.name_regions", name_regions),
    ("atrous.effective_kernel", effective_kernel),
    ("atrous.convolve", convolve),
    ("atrous.convolve", convolve_with_torch),
    ("atrous.insert_zeros", insert_zeros),
    ("atrous.output_length", output_length),
    ("atrous.touched_positions", touched_positions),
    ("atrous.valid_weights", valid_weights),
    ("field.size_of_stack", size_of_stack),
    ("field.stride_and_start", stride_and_start),
    ("field.choose_rates", choose_rates),
    ("field.plan_layers", plan_layers),
    ("field.measure", measure),
    ("field.measure", measure_by_pixels),
    ("v1.two_fields", two_fields),
    ("v1.learning_rate", learning_rate),
    ("v1.convolution_weight", convolution_weight),
    ("v1.subsample_taps", subsample_taps),
    ("v1.head_parameters", head_parameters),
    ("crf.energy", energy),
    ("crf.appearance", appearance),
    ("crf.splat_and_slice", splat_and_slice),
    ("crf.update", update),
    ("crf.free_energy", free_energy),
    ("fcn.transposed_size", transposed_size),
    ("fcn.overlap_counts", overlap_counts),
    ("fcn.bilinear_kernel", bilinear_kernel),
    ("fcn.transposed_convolution", transposed_convolution),
    ("fcn.unpool", unpool),
    ("train.steps_for", steps_for),
    ("train.rate_at", rate_at),
    ("train.ids_of_colors", ids_of_colors),
    ("train.two_looks", two_looks),
    ("train.own_pictures", own_pictures),
    ("losses.cross_entropy_with_void", cross_entropy_with_void),
    ("losses.dice", dice),
    ("losses.lovasz", lovasz),
    ("optim.adam", adam),
    ("optim.running_mean", running_mean),
    ("separable.count_weights", count_weights),
    ("decoder.joined_shape", joined_shape),
    ("separable.merge_kernels", merge_kernels),
    ("decoder.fuse", fuse),
    ("decoder.coarse_labels", coarse_labels),
    ("aspp.first_useless_rate", first_useless_rate),
    ("aspp.field_of_pyramid", field_of_pyramid),
    ("aspp.sum_of_branches", sum_of_branches),
    ("aspp.image_pooling", image_pooling),
    ("aspp.multi_grid_rates", multi_grid_rates),
    ("beyond.fuse_scales", fuse_scales),
    ("beyond.keep_labels", keep_labels),
    ("beyond.quality_from_areas", quality_from_areas),
    ("beyond.group_pixels", group_pixels),
    ("beyond.classify_masks", classify_masks),
]
