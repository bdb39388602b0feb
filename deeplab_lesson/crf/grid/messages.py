"""Belief propagation: each pixel tells each neighbor what it would make of the neighbor's labels."""

from typing import NamedTuple

import torch
from torch import Tensor

from deeplab_lesson.crf.grid.model import Grid, Index
from deeplab_lesson.crf.grid.orders import check_stop


class Beliefs(NamedTuple):
    """What `belief_propagation` found."""

    beliefs: Tensor  # [C, H, W], sum 1 over the labels: marginals, or with max_product scaled max-marginals
    iterations: int  # rounds of messages that were sent
    converged: bool  # the last round changed no log-message by more than the tolerance

    @property
    def labels(self) -> Tensor:
        """The label with the highest belief of each pixel, int64 [H, W]."""
        return self.beliefs.argmax(dim=0)


def belief_propagation(
    model: Grid,
    *,
    max_product: bool = False,
    damping: float = 0.0,
    max_iterations: int = 200,
    tolerance: float = 1e-12,
) -> Beliefs:
    """Send messages between neighbors, all at once in each round, until they settle.

    On a chain (one row or column) and on a tree (enough weights 0 that no loop remains) the beliefs are exact after as
    many rounds as the longest path has edges. With loops they are an approximation, often a good one, and nothing
    guarantees that they settle: look at `converged`.

    Args:
        max_product: False sums over the sender's labels: the beliefs are marginals. True takes the best one: belief
            and probability of the best labelling with that label at that pixel are proportional, and `labels` is the
            MAP labelling if no two labellings share the lowest energy.
        damping: share of the old message that is kept, in log space, 0 to below 1; it can calm messages that swing.

    Raises:
        ValueError: damping outside [0, 1), max_iterations or tolerance < 0.

    Source: Pearl 1988; Wainwright, Jordan 2008, sections 2.5.1 and 4.1.
    """
    check_stop("max_iterations", max_iterations, tolerance)
    if not 0 <= damping < 1:
        raise ValueError(f"damping={damping}: allowed are numbers from 0 to below 1, the share of the old message kept")
    # messages[d] has, at each pixel, what the neighbor in direction d told it: log-scores of the pixel's labels, and 0
    # where there is no such neighbor. [4, C, H, W]
    messages = model.unary.new_zeros(4, *model.unary.shape)
    iterations, converged = 0, False
    while not converged and iterations < max_iterations:
        new = damping * messages + (1 - damping) * _send(model, messages, max_product)
        converged = bool((new - messages).abs().amax() <= tolerance)
        messages, iterations = new, iterations + 1
    return Beliefs(torch.softmax(messages.sum(dim=0) - model.unary, dim=0), iterations, converged)


def _send(model: Grid, messages: Tensor, max_product: bool) -> Tensor:
    """One round: m_ij(l) = log sum over k of exp(-U_i(k) - w_ij mu(k, l) + what i heard from all others than j)."""
    heard = messages.sum(dim=0) - model.unary  # [C, H, W]
    new = torch.zeros_like(messages)
    for direction, (sender, receiver, weights) in enumerate(_directions(model)):
        opposite = direction ^ 1  # 0 and 1 are along a row, 2 and 3 along a column
        without_receiver = (heard - messages[opposite])[sender]  # [C, h, w], h x w pairs
        scores = without_receiver[:, None] - weights * model.compatibility[:, :, None, None]  # [C, C, h, w]
        told = scores.amax(dim=0) if max_product else scores.logsumexp(dim=0)
        new[direction][receiver] = told - told.logsumexp(dim=0)  # a constant changes no belief; numbers stay small
    return new


def _directions(model: Grid) -> list[tuple[Index, Index, Tensor]]:
    """Each pair twice, once with either pixel as the sender."""
    both = [((first, second, weights), (second, first, weights)) for first, second, weights in model.pairs()]
    return [way for ways in both for way in ways]
