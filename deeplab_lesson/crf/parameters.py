"""The parameters of the fully connected CRF, and those of the papers."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from torch import Tensor

from deeplab_lesson.crf.checks import check_choice, check_iterations, check_normalization, check_sigma, check_weight


@dataclass(frozen=True)
class CRFParameters:
    """What the energy weighs, and how its minimum is sought. The names in brackets are v2's (equation 3).

    Raises:
        ValueError: a sigma that is not above 0, a negative weight, an unknown word.
    """

    appearance_weight: float = 4.0
    """[w1] How strongly pixels that are near and alike in color pull each other to one label."""
    appearance_sigma_xy: float = 49.0
    """[sigma_alpha] How near, in pixels."""
    appearance_sigma_rgb: float = 5.0
    """[sigma_beta] How alike, in units of 0..255."""
    smoothness_weight: float = 3.0
    """[w2] How strongly near pixels pull each other, whatever their color."""
    smoothness_sigma_xy: float = 3.0
    """[sigma_gamma] How near, in pixels."""
    iterations: int = 10
    """Updates of all marginals; 0 gives the softmax of the logits."""
    compatibility: Tensor | None = None
    """[mu] Symmetric penalties [C, C] for each pair of labels; None is Potts: 1 for different labels, 0 for equal."""
    normalization: str = "symmetric"
    """How kernels are normalized: "symmetric" is pydensecrf's, "after" that of DeepLab v1's and v2's own code."""
    appearance: str = "lattice"
    """"lattice", "grid" (one cell a pixel: coarser), "attention" (exact, "after" only) or "exact" (slow)."""
    smoothness: str = "exact"
    """"exact" (two one-dimensional convolutions) or "lattice" (as pydensecrf)."""

    def __post_init__(self) -> None:
        for name in ("appearance_sigma_xy", "appearance_sigma_rgb", "smoothness_sigma_xy"):
            check_sigma(name, getattr(self, name))
        for name in ("appearance_weight", "smoothness_weight"):
            check_weight(name, getattr(self, name))
        check_iterations(self.iterations)
        check_normalization(self.normalization)
        check_choice("appearance", self.appearance, ("lattice", "grid", "attention", "exact"))
        check_choice("smoothness", self.smoothness, ("exact", "lattice"))


def read_parameters(values: Mapping[str, Any]) -> CRFParameters:
    """Build the parameters from keyword arguments.

    Raises:
        TypeError: a name that is not among them; the nearest one is offered.
    """
    names = [field.name for field in fields(CRFParameters)]
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"the CRF has no parameter {name!r}{guess} (all: {', '.join(names)})")
    return CRFParameters(**values)


_NAMES = (
    "appearance_weight",
    "appearance_sigma_xy",
    "appearance_sigma_rgb",
    "smoothness_weight",
    "smoothness_sigma_xy",
    "iterations",
)
_PUBLISHED: dict[str, tuple[float | int, ...]] = {
    # v1 prints where it searched, not what it found; these are those of the LargeFOV model's script.
    "deeplab_v1": (4.0, 49.0, 5.0, 3.0, 3.0, 10),
    # v2 prints ranges as well; these come with its released models.
    "deeplab_v2_vgg16": (4.0, 65.0, 3.0, 2.0, 2.0, 10),
    "deeplab_v2_resnet101": (4.0, 67.0, 3.0, 3.0, 1.0, 10),
    # The example in the code of Krähenbühl and Koltun, and in pydensecrf's README.
    "krahenbuhl2011": (10.0, 80.0, 13.0, 3.0, 3.0, 5),
}
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: MappingProxyType(dict(zip(_NAMES, values, strict=True))) for name, values in _PUBLISHED.items()}
)
