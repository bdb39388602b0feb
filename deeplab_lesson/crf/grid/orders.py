"""In which order a sweep visits the pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor

SEQUENTIAL = ("checkerboard", "raster")


def update_masks(order: str, unary: Tensor, allowed: Sequence[str]) -> Tensor:
    """The pixels of a sweep that change at the same time, group by group: bool [groups, H, W].

    - checkerboard: the black squares, then the white ones. No two squares of a color are neighbors, so that a group's
      pixels do not see each other change: two groups do what changing one pixel after another would do.
    - raster: one pixel after another, row by row.
    - parallel: all at once, each looking at what its neighbors were before.

    Raises:
        ValueError: another order than the `allowed` ones.
    """
    if order not in allowed:
        raise ValueError(
            f"order={order!r}: allowed are {', '.join(allowed)}"
            + ("; with parallel updates of labels the energy may rise" if order == "parallel" else "")
        )
    H, W = unary.shape[1:]
    row, column = torch.arange(H, device=unary.device)[:, None], torch.arange(W, device=unary.device)
    if order == "raster":
        return torch.eye(H * W, dtype=torch.bool, device=unary.device).reshape(H * W, H, W)
    if order == "checkerboard":
        return torch.stack([(row + column) % 2 == color for color in (0, 1)])
    return torch.ones(1, H, W, dtype=torch.bool, device=unary.device)


def check_stop(name: str, limit: int, tolerance: float = 0.0) -> None:
    """Refuse a limit or a tolerance below 0.

    Raises:
        ValueError: as said.
    """
    if isinstance(limit, bool) or limit < 0:
        raise ValueError(f"{name}={limit}: allowed are whole numbers from 0, where 0 returns the start")
    if not tolerance >= 0:
        raise ValueError(f"tolerance={tolerance}: allowed are numbers from 0")
