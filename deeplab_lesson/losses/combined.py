"""Every loss by name, and weighted sums of them."""

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from deeplab_lesson.data.palette import VOID
from deeplab_lesson.losses.edges import edge_loss
from deeplab_lesson.losses.overlap import dice_loss, lovasz_softmax
from deeplab_lesson.losses.pixelwise import binary_cross_entropy, cross_entropy, focal_loss, ohem_cross_entropy

LOSSES: dict[str, tuple[Callable[..., Tensor], str]] = {
    "cross_entropy": (cross_entropy, "-log of the true class's probability, mean over the pixels"),
    "ohem_cross_entropy": (ohem_cross_entropy, "cross entropy of the pixels that are still hard"),
    "focal": (focal_loss, "cross entropy that turns down the pixels that are right already"),
    "binary_cross_entropy": (binary_cross_entropy, "cross entropy for two classes from one channel (sigmoid)"),
    "dice": (dice_loss, "1 - Dice coefficient of the regions, mean over the classes present"),
    "lovasz_softmax": (lovasz_softmax, "a stand-in for 1 - IoU that has a gradient, mean over the classes present"),
    "edge": (edge_loss, "whether pixels two apart differ where their labels do; an addition to another loss"),
}

_GIVEN_TO_A_CALL = ("logits", "labels", "class_weights", "valid_pixels", "void")


class CombinedLoss:
    """A weighted sum of losses. Made by `combine`.

    Attributes:
        coefficients: by name.
        values: each term of the last call by name, before its coefficient and without a gradient, for logging.
    """

    def __init__(
        self,
        coefficients: Mapping[str, float],
        options: Mapping[str, Mapping[str, Any]],
        class_weights: Tensor | None = None,
    ) -> None:
        self.coefficients = {name: float(coefficient) for name, coefficient in coefficients.items()}
        self.class_weights = class_weights
        self.options = {name: dict(options.get(name, {})) for name in coefficients}
        self.values: dict[str, Tensor] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, in the order in which they were given."""
        return tuple(self.coefficients)

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        valid_pixels: Tensor | None = None,
        void: int = VOID,
    ) -> Tensor:
        """Sum coefficient times loss; valid_pixels, as the class weights, goes to the terms that take it."""
        shared = {"class_weights": self.class_weights, "valid_pixels": valid_pixels, "void": void}
        terms = {}
        for name in self.names:
            function = LOSSES[name][0]
            taken = {key: value for key, value in shared.items() if key in inspect.signature(function).parameters}
            terms[name] = function(logits, labels, **taken, **self.options[name])
        self.values = {name: term.detach() for name, term in terms.items()}
        first, *others = (self.coefficients[name] * term for name, term in terms.items())
        return sum(others, start=first)

    def __repr__(self) -> str:
        return f"CombinedLoss({' + '.join(f'{value:g} {name}' for name, value in self.coefficients.items())})"


def combine(
    coefficients: Mapping[str, float],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    class_weights: Tensor | None = None,
) -> CombinedLoss:
    """Build a weighted sum of losses.

    >>> loss = combine({"cross_entropy": 1.0, "dice": 0.5}, {"dice": {"epsilon": 1.0}})
    >>> loss
    CombinedLoss(1 cross_entropy + 0.5 dice)

    Args:
        coefficients: by name, one of `LOSSES`; a term with coefficient 0 is computed and only logged.
        options: by name, keyword arguments of that loss.
        class_weights: [C], for the terms that take them; best on the logits' device, so that no step copies them.

    Raises:
        TypeError: a coefficient that is no number.
        ValueError: an unknown name or option (near ones are offered), no term, a coefficient that is negative or not
            finite, or only zeros.
    """
    options = options or {}
    for name in coefficients:
        if name not in LOSSES:
            raise ValueError(f"there is no loss {name!r}: {_offer(name, list(LOSSES))}")
    for name, value in coefficients.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"the coefficient of {name} is {value!r}: allowed is a number")
        if not 0 <= value < math.inf:
            raise ValueError(f"the coefficient of {name} is {value}: allowed are finite numbers from 0")
    if not any(coefficients.values()):
        raise ValueError(
            f"the coefficients are {dict(coefficients)}: at least one loss must have one above 0, such as "
            "{'cross_entropy': 1.0}"
        )
    for name, keywords in options.items():
        if name not in coefficients:
            raise ValueError(f"there are options for {name!r}, which is no term: {_offer(name, list(coefficients))}")
        parameters = inspect.signature(LOSSES[name][0]).parameters
        allowed = [parameter for parameter in parameters if parameter not in _GIVEN_TO_A_CALL]
        for keyword in keywords:
            if keyword not in allowed:
                raise ValueError(f"the loss {name} has no option {keyword!r}: {_offer(keyword, allowed)}")
    return CombinedLoss(coefficients, options, class_weights)


def _offer(wrong: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(wrong, allowed, n=1, cutoff=0.5)
    return (f"did you mean {near[0]!r}? " if near else "") + f"Allowed: {', '.join(allowed) or 'none'}"
