"""Random numbers that are the same on every machine and under every version of NumPy.

NumPy guarantees the raw bits of a bit generator and of `SeedSequence` for good; it does not guarantee what
`Generator.uniform` or `.normal` make of them. So the few distributions that `Scenes` needs are made here from
raw bits, by operations that IEEE 754 rounds in one way only: + - * / and square root. There is no sine,
exponential or logarithm: their last bit depends on the library and on the processor.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")

BYTES_A_SAMPLE = 4  # the sum of four uniform bytes is bell-shaped enough for sensor noise
BYTE_SUM_MEAN = 510  # 4 * 255 / 2
BYTE_SUM_SIGMA = 147.8  # sqrt(4 * (256**2 - 1) / 12)


class Stream:
    """One reproducible sequence of random draws, named by a key of non-negative integers.

    Two different keys of one length give independent streams; the same key gives the same draws everywhere.

    Source: PCG64 (O'Neill 2014), keyed through `numpy.random.SeedSequence`; NumPy's guarantee is NEP 19.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high), from the 53 bits that a float's mantissa holds."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) / 2**53)

    def integer(self, low: int, high: int) -> int:
        """An integer in low..high, both included."""
        return low + (int(self._bits.random_raw()) * (high - low + 1) >> 64)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform(0, 1) < probability

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items, each equally likely."""
        return items[self.integer(0, len(items) - 1)]

    def shuffled(self, items: Sequence[Item]) -> list[Item]:
        """The items in a random order (Fisher and Yates)."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = self.integer(0, last)
            result[last], result[other] = result[other], result[last]
        return result

    def log_uniform(self, low: float, high: float) -> float:
        """A number in [low, high) with density proportional to 1/x: each octave is equally likely.

        Drawn by rejection (keep a uniform x with probability low/x), which needs no exponential.
        """
        while True:
            value = self.uniform(low, high)
            if self.chance(low / value):
                return value

    def direction(self) -> tuple[float, float]:
        """(cosine, sine) of a uniformly random angle: a point of the unit disk, pushed out to the circle."""
        while True:
            x, y = self.uniform(-1, 1), self.uniform(-1, 1)
            squared = x * x + y * y
            if 0.01 < squared <= 1:
                return x / math.sqrt(squared), y / math.sqrt(squared)

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """uint8 [count], uniform in 0..255."""
        words = np.atleast_1d(self._bits.random_raw((count + 7) // 8))
        return words.astype("<u8").view(np.uint8)[:count]

    def noise(self, shape: tuple[int, ...], sigma: float) -> NDArray[np.int32]:
        """int32 [shape]: bell-shaped noise of mean 0 and this standard deviation, at most 3.45 sigma."""
        count = math.prod(shape)
        columns = self.bytes(BYTES_A_SAMPLE * count).reshape(BYTES_A_SAMPLE, count).astype(np.int32)
        total = columns[0] + columns[1] + columns[2] + columns[3] - BYTE_SUM_MEAN
        scaled: NDArray[np.int32] = total * int(256 * sigma / BYTE_SUM_SIGMA) >> 8
        return scaled.reshape(shape)
