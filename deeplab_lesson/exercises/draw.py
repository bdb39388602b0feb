"""Random inputs for the checks: small, made of whole numbers, and easy to read in a message."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Draw:
    """A source of random inputs. Without a seed it begins anew with each one, from the system's entropy."""

    def __init__(self, seed: int | None = None) -> None:
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def whole(self, lowest: int, highest: int) -> int:
        """A whole number; both ends are possible."""
        return int(torch.randint(lowest, highest + 1, (), generator=self.generator))

    def whole_numbers(self, count: int, lowest: int, highest: int) -> list[int]:
        return [self.whole(lowest, highest) for _ in range(count)]

    def choice(self, options: Sequence[T]) -> T:
        return options[self.whole(0, len(options) - 1)]

    def tensor(self, *shape: int) -> Tensor:
        """Float32 whole numbers from 1 to 9 with a random sign: sums of their products are exact, and none is 0."""
        sizes = torch.randint(1, 10, shape, generator=self.generator)
        signs = 2 * torch.randint(0, 2, shape, generator=self.generator) - 1
        return (sizes * signs).float()

    def convolution(self) -> nn.Conv2d:
        """One channel, height and width unlike, and positive weights, so that no gradient cancels."""
        kernel = (self.whole(1, 3), self.whole(2, 4))
        stride, rate = self.whole(1, 2), self.whole(1, 3)
        padding = (self.whole(0, (kernel[0] - 1) * rate), self.whole(1, (kernel[1] - 1) * rate))
        # On the meta device, because the usual initialization would use up the chapter's own random numbers.
        layer = nn.Conv2d(1, 1, kernel, stride, padding, rate, bias=False, device="meta").to_empty(device="cpu")
        nn.init.uniform_(layer.weight, 0.5, 1.5, generator=self.generator)
        return layer
