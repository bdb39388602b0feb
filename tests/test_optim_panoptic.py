"""Training on instance maps: pictures, labels and objects share a view, and all three heads learn."""

import numpy as np
import torch
from short_training import short_config

from deeplab_lesson import create_model
from deeplab_lesson.data import EvalTransform, Scenes, TrainTransform
from deeplab_lesson.models.panoptic_instances import panoptic_loss_terms, panoptic_targets
from deeplab_lesson.training import Trainer, train


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_instances_share_the_view_of_their_label() -> None:
    """Take the label's own ids as instances: the two must stay equal, but for what lies beyond the picture."""
    image, label = Scenes("train", (90, 120), length=1).read(0)
    transform = TrainTransform((48, 64), (0.3, 2.0), color_jitter=0.3)
    for seed in range(20):
        _, ids, instances = transform(image, label, seeded(seed), instances=label.astype(np.int32) + 1000)
        assert instances.dtype == torch.int64
        assert torch.equal(ids, torch.where(instances == 0, 255, instances - 1000))
        assert torch.equal(ids, transform(image, label, seeded(seed))[1]), "the view is the same with and without"


def test_every_head_learns_from_scenes(tmp_path) -> None:
    scenes = Scenes("train", (64, 64), length=4, instances=True)
    torch.manual_seed(0)
    model = create_model("panoptic_deeplab_mini", 11)
    config = short_config(tmp_path, steps=40, batch_size=4, crop=(64, 64), scale=(1.0, 1.0), flip=0.0,
                          learning_rate=0.02, center_sigma=4.0, evaluate_every=40)  # fmt: skip

    def terms() -> dict[str, float]:
        parts = [scenes.read(index) for index in range(4)]
        images, labels = zip(*(EvalTransform()(*part[:2]) for part in parts), strict=True)
        targets = panoptic_targets(torch.from_numpy(np.stack([part[2] for part in parts])).long(), sigma=4.0)
        with torch.no_grad():
            heads = model.train().forward_heads(torch.stack(images))
        return {key: value.item() for key, value in panoptic_loss_terms(heads, torch.stack(labels), targets).items()}

    before, offset_head = terms(), [value.detach().clone() for value in model.offset.parameters()]
    train(config, model=model, train_set=scenes, val_set=scenes)
    after = terms()
    assert after["out"] < 0.8 * before["out"]
    assert after["center"] < 0.2 * before["center"]
    assert after["offset"] < before["offset"], "by little: its weight is made for pictures of 1025x2049 pixels"
    assert not any(map(torch.equal, offset_head, model.offset.parameters()))


def test_panoptic_models_open_scenes_with_instances(tmp_path) -> None:
    assert short_config(tmp_path, model="panoptic_deeplab_mini").open("train").instances
    assert not short_config(tmp_path).open("train").instances


def test_data_without_instances_is_said(tmp_path, capsys) -> None:
    plain = Scenes("train", (64, 64), length=4)
    Trainer(short_config(tmp_path, model="panoptic_deeplab_mini", steps=2), None, plain, plain).run()
    assert capsys.readouterr().out.count("no instance maps: centers and offsets are not trained") == 1
