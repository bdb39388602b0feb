"""The fully connected CRF as a layer: fixed, as v1 and v2 use it, or trained with the network."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from deeplab_lesson.crf.checks import check_compatibility
from deeplab_lesson.crf.dense import infer, labels_first
from deeplab_lesson.crf.parameters import read_parameters


class DenseCRF(nn.Module):
    """Mean field as a module: logits and images in, log-marginals out.

    The output goes where logits go: argmax, exp, softmax and nll_loss all work on it.

    Args:
        num_classes: C.
        trainable: learn both weights and the compatibility matrix through the unrolled iterations (CRF as RNN). The
            sigmas stay as they are: the lattice has no gradient for its features.
        parameters: the fields of CRFParameters; in training the papers take iterations=5.

    Shapes:
        logits  [N, C, H, W]
        images  [N, channels, H, W], in 0..255
        output  [N, C, H, W], float32 (float64 for float64)

    Raises:
        TypeError, ValueError: as `mean_field`; logits of another number of classes.

    Source: Zheng et al. 2015 (arXiv 1502.03240).
    """

    def __init__(self, num_classes: int, *, trainable: bool = False, **parameters: Any) -> None:
        super().__init__()
        if type(num_classes) is not int or num_classes < 2:
            raise ValueError(f"num_classes={num_classes!r}: allowed are whole numbers from 2 (count the background)")
        settings = read_parameters(parameters)
        penalties = settings.compatibility
        if penalties is None:
            penalties = 1 - torch.eye(num_classes)
        check_compatibility(penalties, num_classes, penalties.device)
        self.num_classes, self.trainable = num_classes, trainable
        self.settings = replace(settings, compatibility=None)
        weights = torch.tensor([settings.appearance_weight, settings.smoothness_weight], dtype=torch.float32)
        if trainable:
            self.weights = nn.Parameter(weights)
            self.compatibility = nn.Parameter(penalties.detach().clone().float())
        else:
            self.register_buffer("weights", weights)
            self.register_buffer("compatibility", penalties.detach().clone().float())

    def forward(self, logits: Tensor, images: Tensor) -> Tensor:
        """Return log Q."""
        if logits.ndim == 4 and logits.shape[1] != self.num_classes:
            raise ValueError(
                f"logits are {list(logits.shape)} and this layer has {self.num_classes} classes: allowed is "
                f"[N, {self.num_classes}, H, W]; build it with DenseCRF({logits.shape[1]})"
            )
        penalties = (self.compatibility + self.compatibility.T) / 2  # a pair has one penalty
        # Potts needs no matrix. It is recognized here, not when built, since a trained state may have been loaded.
        is_potts = not self.trainable and torch.equal(penalties, 1 - torch.eye(self.num_classes).to(penalties))
        settings = replace(self.settings, compatibility=None if is_potts else penalties)
        weights = (self.weights[0], self.weights[1])
        return labels_first(infer(logits, images, settings, weights), torch.log_softmax)

    def extra_repr(self) -> str:
        """What `print(module)` shows."""
        return f"{self.num_classes}, trainable={self.trainable}, iterations={self.settings.iterations}"
