"""What the tests of several systems share: 30 steps on four Scenes pictures, and the shapes that modules give."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from deeplab_lesson.data import EvalTransform, Scenes
from deeplab_lesson.losses import cross_entropy

CLASSES = len(Scenes.classes)


def four_pictures(size: int = 64) -> tuple[Tensor, Tensor]:
    pairs = [Scenes("train", (size, size), length=4, transform=EvalTransform())[index] for index in range(4)]
    return torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs])


def losses_of_steps(model: nn.Module, steps: int = 30, learning_rate: float = 0.05) -> list[float]:
    """Train on the same four pictures; the loss before every step, and one more after the last."""
    images, labels = four_pictures()
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    model.train()
    losses = []
    for _ in range(steps):
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        return [*losses, cross_entropy(model(images), labels).item()]


def parameters_without_finite_gradient(model: nn.Module, images: Tensor) -> list[str]:
    """The names of those whose gradient is missing, zero everywhere or not finite, after one backward pass."""
    logits = model.train()(images)
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))).mean().backward()
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.isfinite().all() or not parameter.grad.abs().sum() > 0
    ]


def shapes_on_meta(model: nn.Module, names: Iterable[str], size: tuple[int, int]) -> dict[str, list[tuple[int, ...]]]:
    """For each module, without N, the shapes of the tensors that it gave, in the order of its calls."""
    seen: dict[str, list[tuple[int, ...]]] = {name: [] for name in names}

    def remember(name: str, output: object) -> None:
        tensors = [output] if isinstance(output, Tensor) else list(output)  # type: ignore[call-overload]
        seen[name] += [tuple(tensor.shape[1:]) for tensor in tensors if isinstance(tensor, Tensor)]

    for name in seen:
        model.get_submodule(name).register_forward_hook(lambda module, args, out, name=name: remember(name, out))
    with torch.no_grad():
        logits = model.eval()(torch.empty(1, 3, *size, device="meta"))
    seen["out"] = [tuple(logits.shape[1:])]
    return seen
