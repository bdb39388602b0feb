"""What a CRF brings that is trained with its network: `python -m benchmarks.crf_layer`.

A network with soft boundaries is trained on Scenes, and then, from these weights, for as many further steps on the
same batches, without and with the fully connected CRF (5 iterations) on top. Measured on the 512 test scenes:

    first stage       where all start
    without CRF       the further steps without a CRF
    fixed CRF         the same network; the CRF only afterwards, with the best parameters on validation scenes (v1, v2)
    trained CRF       the further steps through the CRF, which learns its weights and its penalties (CRF as RNN)
    - its network     the network of the last one without its CRF

Both CRFs begin with a search on the same validation scenes, each with its network; the trained one keeps the sigmas
that it found. Stop it at any time and call it again: it goes on. It writes book/results/crf_layer.json.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from benchmarks.results import ROOT, write_result
from benchmarks.resumable import Clock, Stopped, train_or_go_on, words
from deeplab_lesson.crf import DenseCRF
from deeplab_lesson.crf.tuning import Search, tune
from deeplab_lesson.data import Scenes, SegmentationDataset, normalize
from deeplab_lesson.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from deeplab_lesson.models.base import SegmentationModel
from deeplab_lesson.training import evaluate, load_checkpoint, preset_config
from deeplab_lesson.training.checkpoint import LAST
from deeplab_lesson.training.evaluation import evaluating
from deeplab_lesson.training.hardware import choose_device

GRID = {
    "appearance_weight": (3.0, 6.0, 12.0),
    "smoothness_weight": (0.0, 1.0),
    "appearance_sigma_xy": (20.0, 60.0, 120.0),
    "appearance_sigma_rgb": (3.0, 6.0, 12.0),
}
SMOOTHNESS_SIGMA_XY = 1.0


class WithCRF(SegmentationModel):
    """A network and the CRF on top of it as one model: normalized images in, log-marginals out."""

    def __init__(self, network: SegmentationModel, crf: DenseCRF) -> None:
        super().__init__()
        self.network, self.crf, self.spec = network, crf, network.spec

    def head_parameters(self) -> list[nn.Parameter]:
        """The CRF's own: they have another learning rate (`head_multiplier`)."""
        return list(self.crf.parameters())

    def forward_heads(self, images: Tensor) -> dict[str, Tensor]:
        mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
        pictures = (255 * (images * std + mean)).clamp(0, 255)  # rounding leaves some at -1e-5
        return {"out": self.crf(self.network(images), pictures)}


def main(
    steps: int = 900,
    start_from: Path | None = None,
    further_steps: int = 200,
    further_learning_rate: float = 0.003,
    crf_multiplier: float = 10.0,
    iterations: int = 5,
    search_pictures: int = 40,
    seeds: tuple[int, ...] = (0, 1),
    model: str = "deeplabv1_mini",
    pictures: int = 2048,
    size: int = 128,
    test_pictures: int = 512,
    runs: Path = Path("runs/crf_layer"),
    results: Path = ROOT / "book" / "results",
) -> None:
    """Train, search, score, compare, write.

    Args:
        start_from: a checkpoint of the model in place of the first stage, the same one for every seed.
        further_learning_rate: of all further steps. Through a CRF that makes answers surer, gradients are larger: at
            0.03, thirty steps undid a network that was trained well.
        crf_multiplier: learning rate of the CRF's own parameters over it.
        iterations: of mean field, in training and afterwards.
        search_pictures: validation scenes on which the CRF's parameters are searched.
    """
    options = {key: value for key, value in locals().items() if key not in ("runs", "results") and value is not None}
    train_set = Scenes("train", (size, size), length=pictures)
    val_set = Scenes("val", (size, size), length=search_pictures)
    test_set = Scenes("test", (size, size), length=test_pictures)
    config = preset_config("scenes", "cpu", model=model, steps=steps, crop=(size, size), limit=None, tensorboard=False)
    config = replace(config, evaluate_every=steps, save_every=20, warmup_steps=min(config.warmup_steps, steps // 10))
    fixed = {"iterations": iterations, "smoothness_sigma_xy": SMOOTHNESS_SIGMA_XY}
    scores: dict[str, list[dict[str, Any]]] = {}
    learned: list[dict[str, Any]] = []
    for seed in seeds:
        folder = runs / str(seed)
        first_stage = replace(config, seed=seed, out=folder / "first_stage")
        further = replace(first_stage, steps=further_steps, learning_rate=further_learning_rate, warmup_steps=0)
        try:
            with Clock(folder):
                if start_from is None:
                    train_or_go_on(first_stage, train_set, val_set)
                first = start_from or first_stage.out / LAST
                start = loaded(first)
                without = train_or_go_on(
                    replace(further, out=folder / "without_crf"), train_set, val_set, loaded(first)
                ).model
                searches = {"trained CRF": search(start, val_set, fixed), "fixed CRF": search(without, val_set, fixed)}
                classes = len(train_set.classes)
                fixed_crf = WithCRF(without, DenseCRF(classes, **searches["fixed CRF"].parameters))
                fixed_crf.to(next(without.parameters()).device)
                layer = DenseCRF(classes, trainable=True, **searches["trained CRF"].parameters)
                trained = train_or_go_on(
                    replace(further, out=folder / "trained_crf", head_multiplier=crf_multiplier),
                    train_set,
                    val_set,
                    WithCRF(loaded(first), layer),
                ).model
                models = {"first stage": start, "without CRF": without, "fixed CRF": fixed_crf, "trained CRF": trained}
                models["- its network"] = trained.network  # type: ignore[assignment]
                for name, network in models.items():
                    scores.setdefault(name, []).append(evaluate(network, test_set).to_json())
        except Stopped:
            print(f"stopped at seed {seed}; the same command goes on")
            return
        penalties = ((layer.compatibility + layer.compatibility.T) / 2).detach()
        learned.append(
            {
                "searched": {name: found.parameters for name, found in searches.items()},
                "learned_weights": [round(weight, 4) for weight in layer.weights.tolist()],
                "learned_penalties": [[round(penalty, 4) for penalty in row] for row in penalties.tolist()],
            }
        )
        print(table(scores), verdict(scores), sep="\n")
        print(f"seed {seed}: searched {learned[-1]['searched']}")
        print(f"learned weights {learned[-1]['learned_weights']}, penalties {float(penalties.min()):.3f} to ", end="")
        print(f"{float(penalties.max()):.3f}", flush=True)
    write_result(
        results / "crf_layer.json",
        f"python -m benchmarks.crf_layer {words(options)}",
        sum(Clock(runs / str(seed)).seconds for seed in seeds),
        {
            **{key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
            "batch_size": config.batch_size,
            "learning_rate": config.learning_rate,
            "grid": {name: list(values) for name, values in GRID.items()},
            "smoothness_sigma_xy": SMOOTHNESS_SIGMA_XY,
            "crf": learned,
            "verdict": verdict(scores),
            "test": scores,
        },
    )


def loaded(path: Path) -> SegmentationModel:
    """A trained model, anew at each call, on the device that trainings take."""
    return load_checkpoint(path, num_classes=len(Scenes.classes), device=str(choose_device("auto")))[0]


@torch.no_grad()
def search(network: SegmentationModel, val_set: SegmentationDataset, fixed: dict[str, Any]) -> Search:
    """Find the CRF's parameters for a network on validation pictures."""
    found, device = [], next(network.parameters()).device
    with evaluating(network):
        for index in range(len(val_set)):
            image, label = val_set.read(index)
            logits = network(normalize(image)[None].to(device))[0].cpu()
            found.append((logits, torch.from_numpy(image.copy()).permute(2, 0, 1), torch.from_numpy(label.copy())))
    return tune(found, grid=GRID, rounds=1, progress=False, **fixed)


def table(scores: dict[str, list[dict[str, Any]]]) -> str:
    """Write the means over the seeds out: mean IoU, and near boundaries by the width of the band."""
    bands = list(next(iter(scores.values()))[0]["trimap_mean_iou"])
    count = len(scores["without CRF"])
    head = "".join(f"{f'{width} px':>8}" for width in bands)
    lines = [f"{f'test, {count} seeds, %':<18}{'mIoU':>8}{head}"]
    for name, row in scores.items():
        values = [mean(score["mean_iou"] for score in row)]
        values += [mean(score["trimap_mean_iou"][width] for score in row) for width in bands]
        lines.append(f"{name:<18}" + "".join(f"{100 * value:>8.2f}" for value in values))
    return "\n".join(lines)


def verdict(scores: dict[str, list[dict[str, Any]]]) -> str:
    """Say whether the trained CRF beats the network without one, and the fixed one, near boundaries."""
    lines = []
    for other in ("without CRF", "fixed CRF"):
        pairs = list(zip(scores["trained CRF"], scores[other], strict=True))
        texts, wins = [], []
        for width in pairs[0][0]["trimap_mean_iou"]:
            gains = [100 * (ours["trimap_mean_iou"][width] - its["trimap_mean_iou"][width]) for ours, its in pairs]
            texts.append(f"{mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f}) at {width} px")
            wins.append(min(gains) > 0)
        lines.append(
            f"trimap mIoU of the trained CRF against {other}: {', '.join(texts)}; it is higher with every seed at "
            f"{sum(wins)} of {len(wins)} widths"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
