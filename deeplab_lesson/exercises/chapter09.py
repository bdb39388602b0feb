"""Exercises of chapter 9, losses and optimization: references, inputs, judges and hints."""

import math

import torch
from torch import Tensor

from deeplab_lesson.exercises import mistakes09
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import real_number
from deeplab_lesson.training.update_rules import Adam

# ---- cross-entropy -------------------------------------------------------------------------------------------------


def cross_entropy_with_void(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the mean of -log softmax(logits)[label] over the pixels whose label is not 255; 0 if there is none.

    `logits` is [C, P], `labels` [P]. Logits may be large: 360 and -360, for example.
    """
    valid = labels != 255
    log_p = torch.log_softmax(logits[:, valid], dim=0)
    losses = -log_p.gather(0, labels[None, valid])
    return float(losses.sum() / valid.sum().clamp(min=1))


def _draw_pixels(draw: Draw) -> tuple[Tensor, Tensor]:
    classes, pixels = draw.whole(2, 3), draw.whole(3, 4)
    labels = draw.whole_numbers(pixels, 0, classes - 1)
    labels[0] = classes - 1  # not all of class 0
    void = draw.choice((1, 1, pixels - 1))
    labels[-void:] = [255] * void
    if draw.whole(1, 8) == 1:
        labels = [255] * pixels
    return draw.tensor(classes, pixels) * draw.choice((1, 40)), torch.tensor(labels)


def _judge_cross_entropy(answer: object, logits: Tensor, labels: Tensor) -> None:
    losses = []
    for scores, label in zip(logits.double().T.tolist(), labels.tolist(), strict=True):
        if label != 255:
            others = sum(math.exp(score - max(scores)) for score in scores)
            losses.append(max(scores) + math.log(others) - scores[label])
    expected = sum(losses) / max(len(losses), 1)
    if not math.isclose(real_number(answer), expected, rel_tol=1e-3, abs_tol=1e-4):
        shown = f"they cost {', '.join(f'{loss:.4g}' for loss in losses)}: {expected:.4g}" if losses else "that is 0"
        raise WrongAnswer(f"you return {real_number(answer):.4g}; {len(losses)} pixels count, {shown}")


def dice(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the Dice loss: the mean of 1 - D over the classes that the labels hold.

    `probabilities` is [C, P] and sums to 1 at each pixel; `labels` is [P], with 255 for void pixels, which count
    nowhere. D of a class is twice the probability on its own pixels, over its probability on all pixels plus the
    number of its pixels.
    """
    valid = labels != 255
    losses = []
    for c in sorted(set(labels[valid].tolist())):
        p, truth = probabilities[c, valid], labels[valid] == c
        losses.append(1 - 2 * p[truth].sum() / (p.sum() + truth.sum()))
    return float(torch.stack(losses).mean())


def _draw_dice(draw: Draw) -> tuple[Tensor, Tensor]:
    classes, pixels = draw.whole(3, 4), draw.whole(4, 5)
    labels = draw.whole_numbers(pixels, 0, classes - 1)
    labels[0], labels[1], labels[-1] = 0, 1, 255  # two classes at least, one void pixel
    labels = [min(label, classes - 2) if label != 255 else label for label in labels]  # the last class is absent
    shares = draw.tensor(classes, pixels).abs()
    return shares / shares.sum(dim=0), torch.tensor(labels)


def _judge_dice(answer: object, probabilities: Tensor, labels: Tensor) -> None:
    valid = labels != 255
    p = probabilities[:, valid].double()
    truth = labels[valid] == torch.arange(len(p))[:, None]  # [C, V]
    there = truth.any(dim=1)
    scores = (2 * (p * truth).sum(dim=1) / (p + truth).sum(dim=1))[there].tolist()
    expected = 1 - sum(scores) / len(scores)
    if not math.isclose(real_number(answer), expected, rel_tol=1e-3, abs_tol=1e-4):
        shown = ", ".join(
            f"{c}: {score:.4g}" for c, score in zip(there.nonzero().flatten().tolist(), scores, strict=True)
        )
        raise WrongAnswer(f"you return {real_number(answer):.4g}; D by class is {shown}; the loss is {expected:.4g}")


def lovasz(errors: torch.Tensor, truth: torch.Tensor) -> float:
    """Return the Lovász extension of 1 - IoU for one class.

    `errors` [P] says how far each pixel's probability is from 1 or 0, whichever is right; `truth` [P] is True on the
    class's pixels, of which there is one at least. Sort the errors, the largest first. Let the pixels become wrong
    one after the other: each error is multiplied by what its pixel adds to 1 - IoU.
    """
    order = errors.argsort(descending=True)
    truth = truth[order]
    intersection = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (~truth).cumsum(0)
    losses = 1 - intersection / union
    gains = torch.diff(losses, prepend=torch.zeros(1))
    return float((errors[order] * gains).sum())


def _draw_lovasz(draw: Draw) -> tuple[Tensor, Tensor]:
    pixels = draw.whole(3, 5)
    errors = torch.randperm(15, generator=draw.generator)[:pixels] + 1
    truth = torch.tensor([draw.whole(0, 1) for _ in range(pixels)], dtype=torch.bool)
    truth[:2] = torch.tensor(draw.choice(([True, False], [False, True])))
    return errors / 16, truth


def _judge_lovasz(answer: object, errors: Tensor, truth: Tensor) -> None:
    expected, before, gains = 0.0, 0.0, []
    wrong = torch.zeros_like(truth)
    for place in errors.argsort(descending=True).tolist():
        wrong[place] = True
        said = truth ^ wrong  # the class's pixels, with those that are wrong turned over
        after = 1 - int((said & truth).sum()) / int((said | truth).sum())
        gains.append(after - before)
        expected += errors[place].item() * gains[-1]
        before = after
    if not math.isclose(real_number(answer), expected, rel_tol=1e-3, abs_tol=1e-4):
        shown = ", ".join(f"{gain:.3g}" for gain in gains)
        raise WrongAnswer(
            f"you return {real_number(answer):.4g}; from the largest error on, 1 - IoU gains {shown}: {expected:.4g}"
        )


def adam(gradients: list[float], learning_rate: float) -> float:
    """Return where a parameter that starts at 0 stands after Adam's steps along these gradients.

    The means keep 0.9 and 0.999 of the old. Divide by the root plus 1e-8.
    """
    place = mean = squares = 0.0
    for t, g in enumerate(gradients, 1):
        mean = 0.9 * mean + 0.1 * g
        squares = 0.999 * squares + 0.001 * g * g
        corrected = mean / (1 - 0.9**t), squares / (1 - 0.999**t)
        place -= learning_rate * corrected[0] / (corrected[1] ** 0.5 + 1e-8)
    return place


def _draw_adam(draw: Draw) -> tuple[list[float], float]:
    gradients = [float(value) for value in draw.tensor(draw.whole(2, 4)).tolist()]
    gradients[1] = -3 * gradients[0]  # not all alike
    return gradients, draw.choice((0.1, 0.01, 0.5))


def _judge_adam(answer: object, gradients: list[float], learning_rate: float) -> None:
    place = torch.zeros(1, dtype=torch.float64)
    rule, places = Adam([place], learning_rate), []
    for gradient in gradients:
        rule.step([torch.tensor([gradient], dtype=torch.float64)])
        places.append(place.item())
    seen, shown = real_number(answer), ", ".join(f"{value:.4g}" for value in places)
    if not math.isclose(seen, places[-1], rel_tol=1e-4, abs_tol=1e-7):
        raise WrongAnswer(f"you return {seen:.4g}; the parameter goes from 0 to {shown}")


def running_mean(start: float, batch_mean: float, momentum: float, steps: int) -> float:
    """Return BatchNorm's running mean after so many steps, if every batch has the same mean.

    `momentum` is PyTorch's: the share of the batch in each step.
    """
    kept = (1 - momentum) ** steps
    return kept * start + (1 - kept) * batch_mean


def _draw_running_mean(draw: Draw) -> tuple[float, float, float, int]:
    start = draw.whole(1, 5)
    batch_mean = start + draw.choice((-1, 1)) * draw.whole(6, 9)
    return float(start), float(batch_mean), draw.choice((0.1, 0.2)), draw.whole(2, 6)


def _judge_running_mean(answer: object, start: float, batch_mean: float, momentum: float, steps: int) -> None:
    norm = torch.nn.BatchNorm1d(1, momentum=momentum, affine=False).double()
    assert norm.running_mean is not None
    norm.running_mean.fill_(start)
    for _ in range(steps):
        norm(torch.full((2, 1), batch_mean, dtype=torch.float64))
    expected = norm.running_mean.item()
    if not math.isclose(real_number(answer), expected, rel_tol=1e-4, abs_tol=1e-6):
        raise WrongAnswer(
            f"you return {real_number(answer):.4g}; {steps} steps keep {(1 - momentum) ** steps:.4g} of the start: "
            f"{expected:.4g}"
        )


CHAPTER = Chapter(
    9,
    "losses and optimization",
    (
        Exercise(
            "losses.cross_entropy_with_void",
            cross_entropy_with_void,
            _draw_pixels,
            _judge_cross_entropy,
            mistakes09.CROSS_ENTROPY,
            (
                "Leave the void pixels out of the sum and out of the count. `labels != 255` marks the others.",
                "`torch.log_softmax(..., dim=0)` is stable; `gather` reads each pixel's own row.",
            ),
        ),
        Exercise(
            "optim.running_mean",
            running_mean,
            _draw_running_mean,
            _judge_running_mean,
            mistakes09.RUNNING_MEAN,
            (
                "One step: new = (1 - momentum) * old + momentum * batch_mean. How much of the start is left then?",
                "After n steps (1 - momentum) ** n of the start is left; the rest is the batches' mean.",
            ),
        ),
        Exercise(
            "losses.dice",
            dice,
            _draw_dice,
            _judge_dice,
            mistakes09.DICE,
            (
                "One class after the other: `labels[valid].unique()` names those that are there.",
                "D = 2 * p[truth].sum() / (p.sum() + truth.sum()), with p of the valid pixels only.",
            ),
        ),
        Exercise(
            "losses.lovasz",
            lovasz,
            _draw_lovasz,
            _judge_lovasz,
            mistakes09.LOVASZ,
            (
                "Sort errors and truth together. A missed pixel leaves the intersection; a false one joins the union.",
                "`truth.sum() - truth.cumsum(0)` is the intersection after each pixel; then union, then differences.",
            ),
        ),
        Exercise(
            "optim.adam",
            adam,
            _draw_adam,
            _judge_adam,
            mistakes09.ADAM,
            (
                "Two running means: of the gradients (0.9) and of their squares (0.999). Both start at 0.",
                "After t gradients the means hold 1 - 0.9**t and 1 - 0.999**t: divide by these before the step.",
            ),
        ),
    ),
)
