"""What readers get wrong in the exercises of chapter 5, as functions, each with what to tell them."""

from torch import Tensor
from torch.nn import functional as F

from deeplab_lesson.exercises.exercise import Misconception

TWO_FIELDS = (
    Misconception(
        lambda kernel_size, rate: (kernel_size * rate * 8 + 32, kernel_size * rate * 8 + 212),
        "k taps have k - 1 gaps: from the first to the last there are (k - 1) * rate positions.",
    ),
    Misconception(
        lambda kernel_size, rate: ((kernel_size - 1) * 8 + 32, (kernel_size - 1) * 8 + 212),
        "You leave the rate out: taps are `rate` positions apart.",
    ),
    Misconception(
        lambda kernel_size, rate: ((kernel_size - 1) * rate * 32 + 32, (kernel_size - 1) * rate * 32 + 212),
        "Positions are 8 pixels apart at output stride 8. The 32 is what one of them stands for, not their distance.",
    ),
    Misconception(
        lambda kernel_size, rate: ((kernel_size - 1) * rate * 8, (kernel_size - 1) * rate * 8),
        "That is the distance of two points. The last tap's position sees pixels, too: add what one of them sees.",
    ),
    Misconception(
        lambda kernel_size, rate: ((kernel_size - 1) * rate * 8 + 8, (kernel_size - 1) * rate * 8 + 8),
        "A position is more than the 8 pixels to its neighbor: five poolings make it stand for 32, and it sees 212.",
    ),
)

LEARNING_RATE = (
    Misconception(
        lambda iteration, base, every: base * 0.1 ** (iteration / every),
        "You let the rate fall all the time. It is a staircase: constant, then a drop.",
    ),
    Misconception(
        lambda iteration, base, every: base * 0.1 ** ((iteration * 20 // 10_582) // every),
        "You count epochs. The paper's 2000 are iterations, that is, updates of the weights.",
    ),
    Misconception(
        lambda iteration, base, every: base * 0.9 ** (iteration // every),
        "Times 0.1 leaves a tenth; you take a tenth away.",
    ),
    Misconception(
        lambda iteration, base, every: base * 0.1 ** ((iteration - 1) // every),
        "Your drop comes one iteration late, because iterations are counted from 0: 2000 have passed at number 2000.",
    ),
    Misconception(
        lambda iteration, base, every: base * 0.1 ** min(1, iteration // every),
        "You drop once. Every further `every` iterations it drops again.",
    ),
)


def _channels_last(weight: Tensor, channels: int, size: int) -> Tensor:
    return weight.reshape(-1, size, size, channels).permute(0, 3, 1, 2)


CONVOLUTION_WEIGHT = (
    Misconception(
        _channels_last,
        "You take the channel as the last index. That is TensorFlow's order; PyTorch flattens [channels, rows, "
        "columns].",
    ),
    Misconception(
        lambda weight, channels, size: weight.reshape(-1, channels, size, size).transpose(2, 3),
        "Rows and columns are swapped: the kernel is mirrored at its diagonal.",
    ),
    Misconception(
        lambda weight, channels, size: weight.reshape(-1, channels, size, size).flip(2, 3),
        "You turn the kernel around. A textbook's convolution does, PyTorch's does not.",
    ),
    Misconception(
        lambda weight, channels, size: weight[:, :, None, None],
        "That is a 1x1 on channels * size * size channels. It needs a map with that many, and pool5 has `channels`.",
    ),
    Misconception(
        lambda weight, channels, size: weight.T.reshape(-1, channels, size, size),
        "`nn.Linear` keeps its weight as [out, in]: the outputs are the first index already.",
    ),
)


def _from_the_corner(weight: Tensor, kernel_size: int) -> Tensor:
    return weight[:, :, :kernel_size, :kernel_size]


def _from_the_middle(weight: Tensor, kernel_size: int) -> Tensor:
    margin = (weight.shape[2] - kernel_size) // 2
    return weight[:, :, margin : margin + kernel_size, margin : margin + kernel_size]


def _short_step(weight: Tensor, kernel_size: int) -> Tensor:
    step = weight.shape[2] // kernel_size
    return weight[:, :, ::step, ::step][:, :, :kernel_size, :kernel_size]


def _every_other(weight: Tensor, kernel_size: int) -> Tensor:
    return weight[:, :, ::2, ::2]


SUBSAMPLE = (
    Misconception(_from_the_corner, "You cut out a corner: the kernel no longer sees the other side."),
    Misconception(_from_the_middle, "You cut out the middle: the kernel no longer sees as far."),
    Misconception(
        _short_step,
        "Your step is k // kernel_size, which stops before the last tap: steps are counted between taps, k - 1 of them "
        "on k taps.",
    ),
    Misconception(_every_other, "You always keep every second tap; the step depends on both sizes."),
    Misconception(
        lambda weight, kernel_size: F.adaptive_avg_pool2d(weight, kernel_size),
        "You average neighboring weights. The paper takes single ones, which is what a larger rate can put back in "
        "their places.",
    ),
)


def _head(kernel_size: int, channels: int, classes: int, *, bias: int = 1, fc7: int = 1, between: int = 0) -> int:
    read = between or channels
    fc6 = channels * (512 * kernel_size**2 + bias)
    return fc6 + fc7 * channels * (channels + bias) + classes * (read + bias)


HEAD_PARAMETERS = (
    Misconception(
        lambda kernel_size, channels, classes: _head(kernel_size, channels, classes, bias=0),
        "You leave out the biases: one for each output channel of each of the three.",
    ),
    Misconception(
        lambda kernel_size, channels, classes: _head(kernel_size, channels, classes, fc7=0),
        "You leave out fc7, a 1x1 from `channels` to `channels`.",
    ),
    Misconception(
        lambda kernel_size, channels, classes: (
            _head(kernel_size, channels, classes) - 512 * channels * kernel_size * (kernel_size - 1)
        ),
        "A kernel of k x k has k * k taps, not k.",
    ),
    Misconception(
        lambda kernel_size, channels, classes: (
            channels * (kernel_size**2 + 1) + channels * (channels + 1) + classes * (channels + 1)
        ),
        "Each channel of fc6 has a kernel for each of pool5's 512 channels.",
    ),
    Misconception(
        lambda kernel_size, channels, classes: _head(kernel_size, channels, classes, between=4096),
        "fc8 reads what fc7 gives, `channels` channels; 4096 is VGG-16's number.",
    ),
)
