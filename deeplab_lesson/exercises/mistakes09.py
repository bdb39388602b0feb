"""What readers get wrong in the exercises of chapter 9, as functions, each with what to tell them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.exercises.exercise import Misconception


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.T, labels, ignore_index=255, reduction="none")


def _mean(losses: Tensor, labels: Tensor) -> float:
    valid = labels != 255
    return float(losses[valid].sum() / valid.sum().clamp(min=1))


def _void_in_count(logits: Tensor, labels: Tensor) -> float:
    return float(_losses(logits, labels).sum() / len(labels))


def _void_as_background(logits: Tensor, labels: Tensor) -> float:
    return float(F.cross_entropy(logits.T, labels.masked_fill(labels == 255, 0)))


def _with_epsilon(logits: Tensor, labels: Tensor) -> float:
    p = logits.softmax(dim=0).gather(0, labels.masked_fill(labels == 255, 0)[None])[0]
    return _mean(-(p + 1e-8).log(), labels)


def _over_pixels(logits: Tensor, labels: Tensor) -> float:
    own = logits.log_softmax(dim=1).gather(0, labels.masked_fill(labels == 255, 0)[None])[0]
    return _mean(-own, labels)


CROSS_ENTROPY = (
    Misconception(
        _void_in_count,
        "You leave void out of the sum and not out of the count: more void makes the loss smaller for no reason.",
    ),
    Misconception(
        _void_as_background, "You make void pixels background. They are no class: nothing is learned from them."
    ),
    Misconception(
        _with_epsilon,
        "You add a small number inside the logarithm: no pixel can cost more than 18.4, and what is very wrong has no "
        "gradient. log_softmax needs no such number.",
    ),
    Misconception(
        lambda logits, labels: float(_losses(logits, labels).sum()),
        "You return the sum: divide by the number of pixels that count.",
    ),
    Misconception(_over_pixels, "Your softmax runs over the pixels. The classes of one pixel sum to 1: that is dim=0."),
    Misconception(
        lambda logits, labels: _mean(_losses(logits.softmax(dim=0), labels), labels),
        "You take the softmax twice. log_softmax, like torch's cross_entropy, takes logits.",
    ),
)


def _dice(
    probabilities: Tensor,
    labels: Tensor,
    *,
    void: bool = False,
    absent: bool = False,
    union: bool = False,
    together: bool = False,
) -> float:
    valid = labels != 255
    p = probabilities if void else probabilities * valid
    truth = labels == torch.arange(len(p))[:, None]
    shared, sizes = (p * truth).sum(dim=1), (p + truth).sum(dim=1)
    if together:
        return float(1 - 2 * shared.sum() / sizes.sum())
    losses = 1 - (shared / (sizes - shared) if union else 2 * shared / sizes)
    return float((losses if absent else losses[truth.any(dim=1)]).mean())


DICE = (
    Misconception(
        lambda probabilities, labels: _dice(probabilities, labels, void=True),
        "What is predicted at void pixels counts in your sums. Leave these pixels out everywhere.",
    ),
    Misconception(
        lambda probabilities, labels: _dice(probabilities, labels, absent=True),
        "You average over all classes. A class without a pixel has D = 0 whatever is predicted: leave it out.",
    ),
    Misconception(
        lambda probabilities, labels: _dice(probabilities, labels, union=True),
        "You divide by the union: that is 1 - IoU. D divides twice the overlap by the sum of both sizes.",
    ),
    Misconception(
        lambda probabilities, labels: _dice(probabilities, labels, together=True),
        "You sum over all classes and then divide once: common classes outweigh rare ones again.",
    ),
    Misconception(
        lambda probabilities, labels: 1 - _dice(probabilities, labels), "You return D itself. The loss is 1 - D."
    ),
)


def _lovasz(errors: Tensor, truth: Tensor, *, order: Tensor, follow: bool = True) -> float:
    there = truth[order] if follow else truth
    intersection = truth.sum() - there.cumsum(0)
    union = truth.sum() + (~there).cumsum(0)
    gains = torch.diff(1 - intersection / union, prepend=torch.zeros(1))
    return float((errors[order] * gains).sum())


def _hard(errors: Tensor, truth: Tensor) -> float:
    said = truth ^ (errors > 0.5)
    return float(1 - (said & truth).sum() / (said | truth).sum())


LOVASZ = (
    Misconception(
        lambda errors, truth: _lovasz(errors, truth, order=torch.arange(len(errors))),
        "You take the pixels as they come. The largest error must be first: sort.",
    ),
    Misconception(
        lambda errors, truth: _lovasz(errors, truth, order=errors.argsort()),
        "You sort upward. The pixel that is most wrong becomes wrong first.",
    ),
    Misconception(
        lambda errors, truth: _lovasz(errors, truth, order=errors.argsort(descending=True), follow=False),
        "You sort the errors and leave the truth in its old order: a pixel must keep its own truth.",
    ),
    Misconception(_hard, "You count errors above one half as wrong and take 1 - IoU. That has steps and no gradient."),
    Misconception(
        lambda errors, truth: float(errors.mean()),
        "You return the mean error: each pixel then weighs the same, and a rare class is forgotten.",
    ),
)


def _adam(
    gradients: list[float],
    rate: float,
    *,
    correct: bool = True,
    root: bool = True,
    square_of_mean: bool = False,
    sign: int = -1,
    first: float = 0.9,
) -> float:
    place = mean = squares = 0.0
    for t, g in enumerate(gradients, 1):
        mean = first * mean + (1 - first) * g
        squares = 0.999 * squares + (1 - 0.999) * (mean if square_of_mean else g) ** 2
        m, s = (mean / (1 - first**t), squares / (1 - 0.999**t)) if correct else (mean, squares)
        place += sign * rate * m / ((s**0.5 if root else s) + 1e-8)
    return place


ADAM = (
    Misconception(
        lambda gradients, learning_rate: _adam(gradients, learning_rate, correct=False),
        "You forget that both means start at 0: divide them by 1 - beta**t, with t = 1 at the first step.",
    ),
    Misconception(
        lambda gradients, learning_rate: _adam(gradients, learning_rate, root=False),
        "You divide by the mean of squares itself. Its root has the gradient's unit.",
    ),
    Misconception(
        lambda gradients, learning_rate: _adam(gradients, learning_rate, square_of_mean=True),
        "You square the running mean. The second mean is that of the squared gradients.",
    ),
    Misconception(
        lambda gradients, learning_rate: _adam(gradients, learning_rate, sign=1),
        "You walk up the hill: a step goes against the gradient.",
    ),
    Misconception(
        lambda gradients, learning_rate: _adam(gradients, learning_rate, first=0.0),
        "Your step has the last gradient on top: that is RMSProp. Adam takes the mean of the gradients there.",
    ),
)


RUNNING_MEAN = (
    Misconception(
        lambda start, batch_mean, momentum, steps: momentum**steps * start + (1 - momentum**steps) * batch_mean,
        "You take momentum for the share that is kept. That is TensorFlow's decay; PyTorch's momentum is the batch's.",
    ),
    Misconception(
        lambda start, batch_mean, momentum, steps: start + momentum * steps * (batch_mean - start),
        "You add equal steps. Each step moves by a share of what is still missing: the steps shrink.",
    ),
    Misconception(
        lambda start, batch_mean, momentum, steps: (1 - (1 - momentum) ** steps) * batch_mean,
        "You start from 0. A part of the running mean that was there before is left.",
    ),
    Misconception(
        lambda start, batch_mean, momentum, steps: (1 - momentum) * start + momentum * batch_mean,
        "You take one step, whatever `steps` says.",
    ),
)
