"""What readers get wrong in the exercises of chapter 11, as functions, each with what to tell them."""

import math

import torch
from torch import Tensor

from deeplab_lesson.exercises.exercise import Misconception

STEPS = (
    Misconception(
        lambda epochs, pictures, batch_size: epochs * pictures // batch_size,
        "You round down: the last pictures are never looked at.",
    ),
    Misconception(
        lambda epochs, pictures, batch_size: epochs * math.ceil(pictures / batch_size),
        "You round up in each epoch. Here every batch is full: the next epoch fills what one leaves over.",
    ),
    Misconception(
        lambda epochs, pictures, batch_size: epochs * (pictures // batch_size),
        "You drop what is left over in each epoch (drop_last=True): those pictures are missing in the count.",
    ),
    Misconception(
        lambda epochs, pictures, batch_size: epochs * pictures,
        "You count pictures. A step takes `batch_size` of them.",
    ),
)


def _rate(step: int, rate: float, batch_size: int, new_batch_size: int, warmup: int, power: float = 1.0) -> float:
    return float(rate * (new_batch_size / batch_size) ** power * min(1.0, (step + 1) / warmup))


RATE = (
    Misconception(
        lambda step, rate, batch_size, new_batch_size, warmup: _rate(step, rate, 1, 1, warmup),
        "Your rate does not depend on the batch. A larger batch has a surer gradient, and bears a larger step.",
    ),
    Misconception(
        lambda step, rate, batch_size, new_batch_size, warmup: _rate(step, rate, new_batch_size, batch_size, warmup),
        "You divide where you should multiply: the larger batch gets the larger rate.",
    ),
    Misconception(
        lambda step, rate, batch_size, new_batch_size, warmup: _rate(
            step, rate, batch_size, new_batch_size, warmup, power=0.5
        ),
        "You take the square root. That is a rule, too (it is used with Adam); the linear rule is asked here.",
    ),
    Misconception(
        lambda step, rate, batch_size, new_batch_size, warmup: _rate(
            step - 1, rate, batch_size, new_batch_size, warmup
        ),
        "Your first step has the rate 0, and changes nothing. Step 0 has 1 / warmup of the rate.",
    ),
    Misconception(
        lambda step, rate, batch_size, new_batch_size, warmup: rate * new_batch_size / batch_size * (step + 1) / warmup,
        "Your rate rises for ever: after the warm-up it stays.",
    ),
)


def _equal(mask: Tensor, colors: Tensor) -> Tensor:
    return mask[:, :, None] == colors  # [H, W, C, 3]


def _or_void(equal: Tensor, void: int = 255) -> Tensor:
    return torch.where(equal.any(dim=-1), equal.int().argmax(dim=-1), void)


COLORS = (
    Misconception(
        lambda mask, colors: (mask[:, :, None] - colors).abs().sum(dim=-1).argmin(dim=-1),
        "You take the nearest color. A color that is no class is void: it may be a border, or a mistake to find.",
    ),
    Misconception(
        lambda mask, colors: _or_void(_equal(mask, colors).all(dim=-1), void=0),
        "You call unknown colors class 0. Then every unlabeled pixel is taught to be background.",
    ),
    Misconception(
        lambda mask, colors: _or_void(_equal(mask, colors).any(dim=-1)),
        "One equal number is enough for you. A color is all three.",
    ),
    Misconception(
        lambda mask, colors: _or_void(mask[:, :, None, 0] == colors[:, 0]),
        "You compare red only.",
    ),
    Misconception(
        lambda mask, colors: _or_void(mask.sum(dim=-1)[:, :, None] == colors.sum(dim=-1)),
        "You compare gray values. Two colors of equal brightness become one class.",
    ),
)


LOOKS = (
    Misconception(
        lambda logits, mirrored: (logits.softmax(dim=0) + mirrored.softmax(dim=0)) / 2,
        "The second answer is still mirrored: you average the left of the picture with its right.",
    ),
    Misconception(
        lambda logits, mirrored: (logits.softmax(dim=0) + mirrored.flip(-2).softmax(dim=0)) / 2,
        "You turn the answer upside down. Width is the last dimension.",
    ),
    Misconception(
        lambda logits, mirrored: ((logits + mirrored.flip(-1)) / 2).softmax(dim=0),
        "You average logits. Their size differs from look to look, and a sure look would drown the other one.",
    ),
    Misconception(
        lambda logits, mirrored: logits.softmax(dim=0) + mirrored.flip(-1).softmax(dim=0),
        "Your probabilities sum to 2: divide by the number of looks.",
    ),
    Misconception(
        lambda logits, mirrored: (logits.softmax(dim=-1) + mirrored.flip(-1).softmax(dim=-1)) / 2,
        "Your softmax runs along a row of pixels. The classes of one pixel sum to 1: that is dim=0.",
    ),
)


PART = (
    Misconception(
        lambda pictures, rank, processes: [
            number % pictures for number in range(rank, math.ceil(pictures / processes) * processes, processes)
        ],
        "You fill up to equal shares, as PyTorch's DistributedSampler does: some pictures are scored twice.",
    ),
    Misconception(
        lambda pictures, rank, processes: list(range(rank, pictures // processes * processes, processes)),
        "You leave out the last pictures, for which not every process gets one.",
    ),
    Misconception(
        lambda pictures, rank, processes: list(range(0, pictures, processes)),
        "Every process evaluates the pictures of rank 0: begin with your own.",
    ),
    Misconception(
        lambda pictures, rank, processes: list(range(rank, pictures)),
        "You skip none: with all processes, most pictures are scored more than once.",
    ),
)
