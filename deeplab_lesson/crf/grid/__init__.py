"""Random fields on a grid of four neighbors, small enough to check each inference method against enumeration.

>>> probabilities = torch.tensor([[[0.7, 0.4]], [[0.3, 0.6]]])  # [C, H, W]: 2 labels, one row of two pixels
>>> model = Grid.potts(-probabilities.log(), weight=1.0)
>>> exact = brute_force(model)
>>> exact.labels.tolist(), round(exact.energy, 3)  # -log 0.7 - log 0.4; the other two choices cost a pair that differs
([[0, 0]], 1.273)
"""

from deeplab_lesson.crf.grid.enumeration import Exact, brute_force
from deeplab_lesson.crf.grid.iterated_modes import Modes, icm
from deeplab_lesson.crf.grid.messages import Beliefs, belief_propagation
from deeplab_lesson.crf.grid.model import Grid, energy
from deeplab_lesson.crf.grid.variational import MeanField, free_energy, mean_field

__all__ = [
    "Beliefs",
    "Exact",
    "Grid",
    "MeanField",
    "Modes",
    "belief_propagation",
    "brute_force",
    "energy",
    "free_energy",
    "icm",
    "mean_field",
]
