"""What every step computes first: the loss of a batch, from pictures as they come out of the loader."""

import torch
from torch import Tensor, nn

from deeplab_lesson.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training.step_loss import StepLoss


class ModelWithLoss(nn.Module):
    """Normalization, a model in `precision` and its loss in float32, in one forward pass.

    DistributedDataParallel and torch.compile see nothing but `forward`. Compiled, the whole becomes one program: the
    logits at full size, which are larger than anything in the trunk, are then not written and read once for each step
    of enlarging, log-softmax and picking.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: SegmentationModel, loss: StepLoss, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.model, self.loss, self.precision = model, loss, precision
        device = next(model.parameters()).device
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):  # here, since sending them would wait
            self.register_buffer(name, torch.tensor(values, device=device)[:, None, None], persistent=False)

    def forward(
        self, images: Tensor, labels: Tensor, instances: Tensor | None = None, valid_pixels: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, a single number.

        Args:
            images: float32 [N, 3, H, W], normalized, or uint8, which is normalized here to the same numbers.
            labels: [N, H, W], int64 or a shorter type.
            instances, valid_pixels: as at `StepLoss`.
        """
        if images.dtype == torch.uint8:
            images = (images.float() / 255 - self.mean) / self.std
        with torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32):
            heads = self.model.forward_heads(images)
        if valid_pixels is None:
            return self.loss(heads, labels.long(), instances)
        return self.loss(heads, labels.long(), instances, valid_pixels=valid_pixels)
