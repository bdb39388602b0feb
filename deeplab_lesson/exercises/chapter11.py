"""Exercises of chapter 11, training the whole model: references, inputs, judges and hints."""

import math

import torch
from torch import Tensor

from deeplab_lesson.exercises import mistakes11
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import Chapter, Exercise, WrongAnswer
from deeplab_lesson.exercises.judging import real_number, same_tensor, whole_number, whole_numbers

# ---- the recipe ----------------------------------------------------------------------------------------------------


def steps_for(epochs: int, pictures: int, batch_size: int) -> int:
    """Return the fewest steps that look at `epochs` times all pictures, when every batch is full.

    What is left over of one epoch begins the first batch of the next.
    """
    return -(-epochs * pictures // batch_size)


def _draw_steps(draw: Draw) -> tuple[int, int, int]:
    epochs, batch_size = draw.whole(3, 5), draw.whole(5, 8)
    rests = range(1, batch_size)  # of an epoch; those with which rounding once and rounding often differ
    rest = draw.choice([r for r in rests if batch_size <= epochs * r <= batch_size * (epochs - 1)])
    return epochs, batch_size * draw.whole(1, 3) + rest, batch_size


def _judge_steps(answer: object, epochs: int, pictures: int, batch_size: int) -> None:
    steps, views = whole_number(answer), epochs * pictures
    if steps * batch_size < views:
        raise WrongAnswer(f"you return {steps}; that is {steps * batch_size} views of pictures, and {views} are asked")
    if (steps - 1) * batch_size >= views:
        raise WrongAnswer(f"you return {steps}; one step fewer shows {(steps - 1) * batch_size}, and {views} are asked")


def rate_at(step: int, rate: float, batch_size: int, new_batch_size: int, warmup: int) -> float:
    """Return the learning rate at a step (from 0) for batches of another size: the linear rule, with a warm-up.

    `rate` is right for `batch_size`. In the first `warmup` steps the rate rises in equal parts; step `warmup` - 1 has
    the whole of it, and the schedule is left out.
    """
    return rate * new_batch_size / batch_size * min(1.0, (step + 1) / warmup)


def _draw_rate(draw: Draw) -> tuple[int, float, int, int, int]:
    batch_size, warmup = draw.whole(2, 6), draw.whole(3, 6)
    times = draw.choice((2, 3, 5))
    return draw.whole(0, 2 * warmup), draw.choice((0.01, 0.02, 0.05)), batch_size, times * batch_size, warmup


def _judge_rate(answer: object, step: int, rate: float, batch_size: int, new_batch_size: int, warmup: int) -> None:
    whole = rate / batch_size * new_batch_size
    risen = (step + 1) / warmup if step < warmup else 1
    if not math.isclose(real_number(answer), whole * risen, rel_tol=1e-4):
        raise WrongAnswer(
            f"you return {real_number(answer):.4g}; each picture of a batch is worth {rate / batch_size:.4g}, a batch "
            f"{whole:.4g}, and at step {step} {min(step + 1, warmup)} of {warmup} parts of it: {whole * risen:.4g}"
        )


# ---- pictures of one's own -----------------------------------------------------------------------------------------


def ids_of_colors(mask: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
    """Return the class ids [H, W] of a mask that is painted in colors, [H, W, 3].

    `colors` [C, 3] has the color of each class. A pixel of any other color is void, 255.
    """
    equal = (mask[:, :, None] == colors).all(dim=-1)  # [H, W, C]
    return torch.where(equal.any(dim=-1), equal.int().argmax(dim=-1), 255)


def _draw_mask(draw: Draw) -> tuple[Tensor, Tensor]:
    red, green, blue, other = (draw.whole(1, 6) for _ in range(4))
    colors = [[red, green, blue], [red, green, blue + 7], [red, green + 7, blue], [red + 7, green, blue]]
    strangers = [[red + 7, green + 7, blue], [red, green, blue + other]]
    order = torch.randperm(4, generator=draw.generator)
    pixels = [draw.choice(colors) for _ in range(2)] + [colors[int(order[0])], *strangers, colors[int(order[3])]]
    mixed = torch.randperm(6, generator=draw.generator)
    return torch.tensor(pixels)[mixed].view(draw.choice((2, 3)), -1, 3), torch.tensor(colors)[order]


def _judge_mask(answer: object, mask: Tensor, colors: Tensor) -> None:
    names = {tuple(color): class_id for class_id, color in enumerate(colors.tolist())}
    ids = [[names.get(tuple(pixel), 255) for pixel in row] for row in mask.tolist()]
    same_tensor(answer, torch.tensor(ids))


# ---- evaluation ----------------------------------------------------------------------------------------------------


def two_looks(logits: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Return the mean of the probabilities [C, H, W] that two looks at a picture give.

    Both are logits [C, H, W]: of the picture, and of the picture with left and right exchanged.
    """
    back = mirrored.flip(-1)
    return (logits.softmax(dim=0) + back.softmax(dim=0)) / 2


def _draw_looks(draw: Draw) -> tuple[Tensor, Tensor]:
    shape = draw.whole(2, 3), draw.whole(2, 3), draw.whole(2, 3)
    return draw.tensor(*shape) / 4, draw.tensor(*shape) / 4


def _judge_looks(answer: object, logits: Tensor, mirrored: Tensor) -> None:
    mean = torch.zeros_like(logits)
    width = logits.shape[2]
    for column in range(width):
        for seen in (logits[:, :, column], mirrored[:, :, width - 1 - column]):
            weights = seen.double().exp()  # [C, H]
            mean[:, :, column] += (weights / weights.sum(dim=0) / 2).float()
    same_tensor(answer, mean)


def own_pictures(pictures: int, rank: int, processes: int) -> list[int]:
    """Return the numbers of the pictures that process `rank` evaluates: its own first, and each `processes`-th after.

    Ranks and pictures are counted from 0. All processes together score each picture once.
    """
    return list(range(rank, pictures, processes))


def _draw_part(draw: Draw) -> tuple[int, int, int]:
    processes = draw.whole(2, 4)
    pictures = processes * draw.whole(2, 3) + draw.whole(1, processes - 1)
    return pictures, draw.whole(0, processes - 1), processes


def _judge_part(answer: object, pictures: int, rank: int, processes: int) -> None:
    seen = whole_numbers(answer)
    expected = [number for number in range(pictures) if number % processes == rank]
    if seen != expected:
        raise WrongAnswer(f"you return {seen}; rank {rank} of {processes} has {expected}")


CHAPTER = Chapter(
    11,
    "training the whole model",
    (
        Exercise(
            "train.steps_for",
            steps_for,
            _draw_steps,
            _judge_steps,
            mistakes11.STEPS,
            (
                "How many pictures are looked at in all, and how many in one step?",
                "Round up, once, at the end: `-(-a // b)` is a / b rounded up.",
            ),
        ),
        Exercise(
            "train.rate_at",
            rate_at,
            _draw_rate,
            _judge_rate,
            mistakes11.RATE,
            (
                "The linear rule: a batch k times as large, a rate k times as large.",
                "In the warm-up, step 0 has 1 / warmup of it, step 1 has 2 / warmup; from then on never more than all.",
            ),
        ),
        Exercise(
            "train.ids_of_colors",
            ids_of_colors,
            _draw_mask,
            _judge_mask,
            mistakes11.COLORS,
            (
                "Compare each pixel with each class: `mask[:, :, None] == colors` is [H, W, C, 3].",
                "All three numbers of a color must agree; where no class agrees, the pixel is 255.",
            ),
        ),
        Exercise(
            "train.two_looks",
            two_looks,
            _draw_looks,
            _judge_looks,
            mistakes11.LOOKS,
            (
                "The second answer is mirrored, as its picture was. `flip(-1)` exchanges left and right.",
                "Probabilities are averaged, not logits: softmax over the classes (dim=0) comes first.",
            ),
        ),
        Exercise(
            "train.own_pictures",
            own_pictures,
            _draw_part,
            _judge_part,
            mistakes11.PART,
            (
                "With 7 pictures, rank 1 of 3 has 1 and 4; rank 0 has 0, 3 and 6.",
                "`range` takes a first number, an end and a step.",
            ),
        ),
    ),
)
