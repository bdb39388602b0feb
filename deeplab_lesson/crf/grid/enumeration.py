"""The exact answer, by writing down every labelling: what each approximate method is measured against."""

from typing import NamedTuple

import torch
from torch import Tensor

from deeplab_lesson.crf.grid.model import Grid, energy


class Exact(NamedTuple):
    """What `brute_force` found."""

    log_partition: float  # log Z, where Z is the sum of exp(-E) over all labellings
    marginals: Tensor  # probability of each label at each pixel [C, H, W]
    labels: Tensor  # the most probable labelling (MAP), int64 [H, W]
    energy: float  # of that labelling; no labelling has less


def brute_force(model: Grid, *, max_labellings: int = 300_000) -> Exact:
    """Compute log Z, the marginals and the MAP labelling from all C^(H W) labellings.

    The limit leaves 3x3 pixels with 4 labels (262,144 labellings). Of several labellings with the lowest energy, the
    first counts.

    Raises:
        ValueError: more labellings than `max_labellings`.
    """
    C, H, W = model.unary.shape
    count = C ** (H * W)
    if count > max_labellings:
        raise ValueError(
            f"{H}x{W} pixels with {C} labels have {count} labellings: allowed are at most {max_labellings}; take fewer "
            "pixels or labels, or raise max_labellings (each labelling takes some hundred bytes)"
        )
    # Labelling m is the number m written with C digits, the first pixel's digit last.
    place = C ** torch.arange(H * W, device=model.unary.device)
    numbers = torch.arange(count, device=model.unary.device)
    labellings = (numbers[:, None] // place % C).reshape(count, H, W)
    energies = energy(model, labellings)
    log_partition = torch.logsumexp(-energies, dim=0)
    probabilities = torch.exp(-energies - log_partition)
    marginals = [torch.einsum("m,mhw->hw", probabilities, (labellings == k).to(probabilities)) for k in range(C)]
    best = int(energies.argmin())
    return Exact(log_partition.item(), torch.stack(marginals), labellings[best].clone(), energies[best].item())
