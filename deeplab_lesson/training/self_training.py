"""Self-training: rounds of a teacher that labels pictures and a student that learns from them."""

import json
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from deeplab_lesson.data.datasets import SegmentationDataset
from deeplab_lesson.data.files import write_atomically
from deeplab_lesson.training.checkpoint import STATE
from deeplab_lesson.training.config import TrainConfig
from deeplab_lesson.training.pseudo_labels import (
    Joined,
    PseudoLabels,
    check_share,
    class_thresholds,
    thresholds_by_class,
)
from deeplab_lesson.training.trainer import TrainResult, train

SETTINGS = "self_training.json"


def self_train(
    config: TrainConfig,
    labeled: SegmentationDataset,
    unlabeled: SegmentationDataset,
    *,
    rounds: int = 1,
    share: float = 0.5,
    threshold: float | None = None,
    labeled_share: float = 0.25,
    val_set: SegmentationDataset | None = None,
) -> list[TrainResult]:
    """Train on the labeled pictures, then, round by round, a student on these and on its teacher's labels.

    Every round is a whole training of `config.steps` steps from the same initial weights; its last weights are the
    next teacher. Stopped, it goes on with `resume=True` where it was, and then may also be given more rounds.

    Args:
        config: of each training; their folders are out/round_0, out/round_1, ...
        labeled, unlabeled: of one set of classes; the labels of `unlabeled` are not looked at.
        share: of each class's pixels, the surest, that are kept (`class_thresholds`).
        threshold: the probability from which a pixel is kept, whatever its class; in place of `share`.
        labeled_share: of the student's pictures, about; labeled ones are repeated until they are as many.
        val_set: what is scored on the way; the split that `config` names where not given. No choice depends on it.

    Returns:
        The trainings, the supervised one first; fewer than rounds + 1 where one was stopped, which is the last then.

    Raises:
        ValueError: fewer than one round, a share or a threshold outside of its range, no pictures, sets of different
            classes, a limit in `config`, another share on resuming, or as in `train` and PseudoLabels.
    """
    if rounds < 1 or not 0 <= labeled_share < 1:
        raise ValueError(
            f"rounds={rounds}, labeled_share={labeled_share}: allowed are rounds from 1 and a share from 0 up to, not "
            "including, 1"
        )
    if config.limit is not None:
        raise ValueError(
            f"limit={config.limit}: self-training takes all pictures of both sets; take limit=None and smaller sets"
        )
    # what would stop the first student is refused before its teacher is trained
    if not len(labeled) or not len(unlabeled):
        raise ValueError(
            f"there are {len(labeled)} labeled and {len(unlabeled)} unlabeled pictures: give one or more of each"
        )
    Joined([labeled, unlabeled])
    check_share(share)
    if threshold is not None:
        thresholds_by_class(threshold, labeled.classes)
    folder, copies = Path(config.out), repeats(len(labeled), len(unlabeled), labeled_share)
    settings = {"share": share, "threshold": threshold, "labeled_share": labeled_share}
    if config.resume:
        _refuse_other(settings, folder / SETTINGS)

    results = [train(replace(config, out=folder / "round_0"), train_set=labeled, val_set=val_set)]
    for number in range(1, rounds + 1):
        if not results[-1].finished:
            break
        teacher, out = results[-1].model, folder / f"round_{number}"
        limits = class_thresholds(unlabeled, teacher, share) if threshold is None else threshold
        pseudo = PseudoLabels(unlabeled, teacher, limits)
        tqdm.write(
            f"round {number} of {rounds}: {copies} times {len(labeled)} labeled pictures, and {len(pseudo)} with "
            f"pseudo labels at {100 * pseudo.kept:.0f} % of their pixels"
        )
        write_atomically(folder / SETTINGS, (json.dumps(settings) + "\n").encode())
        student = replace(config, out=out, resume=config.resume and (out / STATE).exists())
        results.append(train(student, train_set=Joined([*[labeled] * copies, pseudo]), val_set=val_set))
    return results


def repeats(labeled: int, unlabeled: int, labeled_share: float) -> int:
    """How often labeled pictures must stand among the others to be about this share of all; at least once."""
    return max(1, round(labeled_share / (1 - labeled_share) * unlabeled / labeled))


def _refuse_other(settings: dict[str, float | None], path: Path) -> None:
    """Refuse settings that would give the students that are to go on other labels than they began with."""
    try:
        then = json.loads(path.read_text(encoding="utf-8")) if path.exists() else settings
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no JSON file ({error}): it is damaged; write the settings {json.dumps(settings)} into it if "
            "the self-training was begun with them, or start a new one in another folder (out=...)"
        ) from error
    if then != settings:
        raise ValueError(
            f"the self-training in {path.parent} has other settings: they were {then} and are {settings} "
            f"({path.name}); go on with the same ones, or start a new one in another folder (out=...)"
        )
