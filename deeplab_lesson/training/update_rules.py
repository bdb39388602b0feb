"""The update rules of six optimizers, a few lines each, for reading; the trainer takes torch's.

All of them walk against the gradient g. They differ in what they remember of the gradients before: a velocity (their
running sum), a mean of their squares, or both. That memory is as large as the parameters, for Adam twice as large.

    rule      remembers                        step of a parameter, learning rate a
    SGD       nothing                          -a g
    Momentum  velocity v = m v + g             -a v
    Nesterov  the same                         -a (g + m v): the gradient's share once more, as if one step ahead
    AdaGrad   sum of squares G = G + g²        -a g / √G: G only grows, so that steps shrink like a / √t
    RMSProp   mean of squares G = d G + (1-d) g²   -a g / √G: old gradients are forgotten
    Adam      means of g and of g²             -a mean / √mean of squares, each divided by the weight it has gathered

DeepLab is trained by SGD with momentum 0.9 (v1 section 5; v2 section 4.1.1), not by Adam as some articles say.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor


class SGD:
    """Stochastic gradient descent: a step against the gradient; the base of the other rules.

    Args:
        parameters: tensors that `step` changes in place.
        weight_decay: pulls every parameter p toward 0 by adding weight_decay * p to its gradient (5e-4 in v1 and v2).

    Source: Robbins and Monro 1951.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float, *, weight_decay: float = 0.0) -> None:
        self.parameters = list(parameters)
        if not self.parameters:
            raise ValueError("there are no parameters to update: give tensors, such as model.parameters()")
        if not learning_rate > 0 or not weight_decay >= 0:
            raise ValueError(
                f"learning_rate={learning_rate}, weight_decay={weight_decay}: allowed are a rate above 0 and a decay "
                "from 0"
            )
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Change every parameter by its rule.

        Args:
            gradients: one for each parameter, as torch.autograd.grad gives them.

        Raises:
            ValueError: another number of gradients than of parameters.
        """
        if len(gradients) != len(self.parameters):
            raise ValueError(
                f"{len(gradients)} gradients for {len(self.parameters)} parameters: give one for each, in their order"
            )
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            parameter += self.change(index, gradient + self.weight_decay * parameter)

    def change(self, index: int, gradient: Tensor) -> Tensor:
        """What is added to parameter `index`; brings the rule's memory up to date."""
        return -self.learning_rate * gradient

    def zeros(self) -> list[Tensor]:
        """A memory: one number for each number in the parameters."""
        return [torch.zeros_like(parameter) for parameter in self.parameters]


class Momentum(SGD):
    """SGD with a velocity: where gradients agree for long, steps grow up to 1 / (1 - momentum) times as large.

    Source: Polyak 1964; momentum 0.9 in v1 to v3+.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, *, momentum: float = 0.9, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, learning_rate, weight_decay=weight_decay)
        self.momentum = _share("momentum", momentum)
        self.velocity = self.zeros()

    def change(self, index: int, gradient: Tensor) -> Tensor:
        self.velocity[index] = self.momentum * self.velocity[index] + gradient
        return -self.learning_rate * self.velocity[index]


class Nesterov(Momentum):
    """Momentum that looks ahead: the step that the velocity will make next is part of this one.

    Source: Nesterov 1983, in the form of Sutskever, Martens, Dahl, Hinton 2013, with the parameters already moved
    ahead, as torch has it.
    """

    def change(self, index: int, gradient: Tensor) -> Tensor:
        self.velocity[index] = self.momentum * self.velocity[index] + gradient
        return -self.learning_rate * (gradient + self.momentum * self.velocity[index])


class AdaGrad(SGD):
    """Every number has its own step, divided by the root of the sum of all its squared gradients.

    Source: Duchi, Hazan, Singer 2011.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, *, epsilon: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, learning_rate, weight_decay=weight_decay)
        self.epsilon = epsilon
        self.sum_of_squares = self.zeros()

    def change(self, index: int, gradient: Tensor) -> Tensor:
        self.sum_of_squares[index] = self.sum_of_squares[index] + gradient**2
        return -self.learning_rate * gradient / (self.sum_of_squares[index].sqrt() + self.epsilon)


class RMSProp(SGD):
    """AdaGrad that forgets: a running mean of the squared gradients (not of the parameters) in place of their sum.

    Args:
        decay: the share of the old mean that each step keeps (0.9 in the lecture; torch calls it alpha, its default
            is 0.99).

    Source: Tieleman and Hinton 2012, Coursera lecture 6.5.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        *,
        decay: float = 0.9,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, learning_rate, weight_decay=weight_decay)
        self.decay, self.epsilon = _share("decay", decay), epsilon
        self.mean_of_squares = self.zeros()

    def change(self, index: int, gradient: Tensor) -> Tensor:
        self.mean_of_squares[index] = self.decay * self.mean_of_squares[index] + (1 - self.decay) * gradient**2
        return -self.learning_rate * gradient / (self.mean_of_squares[index].sqrt() + self.epsilon)


class Adam(SGD):
    """Momentum over RMSProp; both means start at 0, which the bias correction makes good.

    Its first step is the learning rate times the sign of the gradient, however small the gradient is.

    Args:
        betas: the shares that the mean of the gradients and the mean of their squares keep at each step.

    Source: Kingma and Ba 2014 (arXiv 1412.6980), algorithm 1.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        learning_rate: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, learning_rate, weight_decay=weight_decay)
        self.betas, self.epsilon = (_share("betas[0]", betas[0]), _share("betas[1]", betas[1])), epsilon
        self.mean, self.mean_of_squares = self.zeros(), self.zeros()
        self.steps = [0] * len(self.parameters)

    def change(self, index: int, gradient: Tensor) -> Tensor:
        first, second = self.betas
        self.steps[index] += 1
        self.mean[index] = first * self.mean[index] + (1 - first) * gradient
        self.mean_of_squares[index] = second * self.mean_of_squares[index] + (1 - second) * gradient**2
        mean = self.mean[index] / (1 - first ** self.steps[index])  # of t gradients the means hold 1 - beta^t
        mean_of_squares = self.mean_of_squares[index] / (1 - second ** self.steps[index])
        return -self.learning_rate * mean / (mean_of_squares.sqrt() + self.epsilon)


UPDATE_RULES: Mapping[str, type[SGD]] = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adagrad": AdaGrad,
    "rmsprop": RMSProp,
    "adam": Adam,
}


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value}: allowed are numbers from 0 up to, not including, 1")
    return value
