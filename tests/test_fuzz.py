"""What newcomers hand over by mistake: every public function with one argument replaced by something else.

A call may succeed. If it does not, the error must be one of this package's own: raised by a `raise` in its code, of a
kind that its docstrings name, with a text that says what was seen and what is allowed. And files that a disk or a
transfer has damaged, lists that name files elsewhere: the same.
"""

import ast
import dataclasses
import importlib
import json
import pickle
import re
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import deeplab_lesson
from deeplab_lesson import (
    cost,
    create_model,
    crf,
    data,
    exercises,
    inference,
    layers,
    losses,
    metrics,
    models,
    training,
)
from deeplab_lesson.crf import grid
from deeplab_lesson.data.files import read_image, read_label
from deeplab_lesson.data.palette import read_classes
from deeplab_lesson.receptive_field import layer_table
from deeplab_lesson.training.checkpoint import load_state, save_state
from deeplab_lesson.training.crf_step import read_crf, write_crf
from deeplab_lesson.training.report import Reporter
from deeplab_lesson.training.self_training import _refuse_other as refuse_other

ROOT = Path(deeplab_lesson.__file__).parent
OWN = (ValueError, TypeError, FileNotFoundError, NotADirectoryError, PermissionError, IndexError, KeyError, MemoryError)

torch.manual_seed(0)
NET = create_model("fcn32s_mini", 3).eval()
PANOPTIC = create_model("panoptic_deeplab_mini", 3).eval()
LAYER = nn.Conv2d(2, 3, 3, padding=2, dilation=2)
LOGITS, LABELS = torch.randn(2, 3, 6, 5), torch.randint(0, 3, (2, 6, 5))
IMAGES = torch.rand(2, 3, 6, 5) * 255
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
IDS = np.random.default_rng(0).integers(0, 3, (40, 36), dtype=np.uint8)
SIGMAS = dict(appearance_weight=2.0, appearance_sigma_xy=3.0, appearance_sigma_rgb=20.0)
KERNELS = SIGMAS | dict(smoothness_weight=1.0, smoothness_sigma_xy=1.0, iterations=2)

SCENES = data.Scenes("val", (40, 44), length=2)
TEACHER = create_model("fcn32s_mini", len(SCENES.classes)).eval()
GRID = grid.Grid(torch.randn(3, 2, 3), torch.rand(2, 2), torch.rand(1, 3))
POINTS = 9 * torch.rand(30, 3)
PAIRS = torch.randint(0, 2, (1, 5, 6, 2))
PICTURES = ROOT.parent / "book" / "_static"
CHECKPOINT = data.bundled("weights/fcn32s_mini.safetensors")
CONFIG = {field.name: field.default for field in dataclasses.fields(training.TrainConfig)}

ATROUS = dict(inputs=torch.randn(1, 2, 6, 6), weight=torch.randn(3, 2, 3, 3), rate=2, stride=1, padding=1)
WEIGHTED = dict(logits=LOGITS, labels=LABELS, class_weights=torch.ones(3), valid_pixels=torch.tensor(60.0), void=255)

# Each public function with arguments that it takes. One of them is then replaced.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "create_model": (create_model, dict(name="fcn32s_mini", num_classes=3, output_stride=32)),
    "list_models": (deeplab_lesson.list_models, dict(pattern="*mini")),
    "SegmentationModel": (NET, dict(images=torch.randn(1, 3, 40, 36))),
    "receptive_field": (deeplab_lesson.receptive_field,
                        dict(module=LAYER, input_size=(9, 9), in_channels=2, position=(4, 4), output=0)),
    "gradient_receptive_field": (deeplab_lesson.gradient_receptive_field,
                                 dict(module=LAYER, input_size=(9, 9), in_channels=2, position=(4, 4))),
    "layer_table": (layer_table, dict(module=LAYER, input_size=(9, 9), in_channels=2)),
    "cost": (cost.cost, dict(module=LAYER, input_size=(9, 9), in_channels=2)),
    "count_multiply_adds": (cost.count_multiply_adds, dict(module=LAYER, input_size=(9, 9), in_channels=2)),
    # crf
    "mean_field": (crf.mean_field, dict(logits=LOGITS, images=IMAGES, compatibility=1 - torch.eye(3), **KERNELS)),
    "exact_mean_field": (crf.exact_mean_field, dict(logits=LOGITS, images=IMAGES, max_pixels=99, **KERNELS)),
    "free_energy": (crf.free_energy, dict(marginals=LOGITS.softmax(1), logits=LOGITS, images=IMAGES, **KERNELS)),
    "DenseCRF": (lambda *, num_classes, logits, images, **kernels: crf.DenseCRF(num_classes, **kernels)(logits, images),
                 dict(num_classes=3, logits=LOGITS, images=IMAGES, **KERNELS)),
    "CRFParameters": (crf.CRFParameters, KERNELS | dict(appearance="lattice", normalization="after")),
    "PermutohedralLattice": (lambda *, values, **points: crf.PermutohedralLattice(**points)(values),
                             dict(features=POINTS, group=torch.arange(30) % 2, normalization="after",
                                  values=torch.rand(30, 2))),
    "BilateralGrid": (lambda *, values, **points: crf.BilateralGrid(**points)(values),
                      dict(features=POINTS, group=torch.arange(30) % 2, normalization="after",
                           values=torch.rand(30, 2))),
    "tune": (lambda *, logits, image, label, **options: crf.tune([(logits, image, label)], progress=False, **options),
             dict(logits=LOGITS[0], image=IMAGES[0], label=LABELS[0], rounds=1, smoothness_weight=1.0,
                  grid={"appearance_weight": (1.0, 2.0)})),
    # crf.grid
    "grid.Grid": (grid.Grid, dict(unary=torch.randn(3, 2, 3), horizontal=torch.rand(2, 2), vertical=torch.rand(1, 3),
                                  compatibility=1 - torch.eye(3))),
    "Grid.potts": (grid.Grid.potts, dict(unary=torch.randn(3, 2, 3), weight=1.0)),
    "Grid.contrast_sensitive": (grid.Grid.contrast_sensitive,
                                dict(unary=torch.randn(3, 6, 5), image=IMAGES[0], weight=1.0, sigma_rgb=9.0)),
    "grid.energy": (grid.energy, dict(model=GRID, labels=torch.zeros(2, 3, dtype=torch.int64))),
    "grid.brute_force": (grid.brute_force, dict(model=GRID, max_labellings=729)),
    "grid.icm": (grid.icm, dict(model=GRID, start=torch.zeros(2, 3, dtype=torch.int64), order="raster", max_sweeps=2)),
    "grid.belief_propagation": (grid.belief_propagation,
                                dict(model=GRID, max_product=True, damping=0.5, max_iterations=3, tolerance=1e-9)),
    "grid.mean_field": (grid.mean_field, dict(model=GRID, start=torch.full((3, 2, 3), 1 / 3), order="parallel",
                                              max_sweeps=3, tolerance=1e-9)),
    "grid.free_energy": (grid.free_energy, dict(model=GRID, marginals=torch.full((3, 2, 3), 1 / 3))),
    # data
    "colorize": (data.colorize, dict(labels=IDS, palette=data.VOC_PALETTE)),
    "normalize": (data.normalize, dict(image=PICTURE)),
    "normalize of a tensor": (data.normalize, dict(image=torch.zeros(2, 3, 6, 5, dtype=torch.uint8))),
    "denormalize": (data.denormalize, dict(image=torch.randn(3, 6, 5))),
    "bundled": (data.bundled, dict(name="weights/fcn32s_mini.json")),
    "CamVid": (data.CamVid, dict(root=data.bundled("scenes"), split="val")),
    "Scenes": (lambda *, index, **options: data.Scenes(**options).read(index),
               dict(split="train", size=(64, 64), length=2, seed=0, instances=True, index=1)),
    "TrainTransform": (lambda *, image, label, instances, **options: data.TrainTransform(**options)(
        image, label, instances=instances),
        dict(image=PICTURE, label=IDS, instances=IDS.astype(np.int32), crop=(33, 33), scale=(0.5, 2.0), flip=0.5,
             color_jitter=0.3)),
    "EvalTransform": (lambda *, image, label: data.EvalTransform()(image, label), dict(image=PICTURE, label=IDS)),
    # layers
    "plan_dilation": (layers.plan_dilation, dict(output_stride=4, strides={"stem": 2, "layer1": 2, "layer2": 2},
                                                 aspp_rates_at_16=(6, 12, 18))),
    "DilationPlan": (layers.plan_dilation(16).with_multi_grid, dict(unit_rates=(1, 2, 4))),
    "make_dense": (layers.make_dense, dict(blocks=nn.ModuleList([LAYER]), stage=layers.plan_dilation(8)["layer4"])),
    "atrous_by_sum": (layers.atrous_by_sum, ATROUS),
    "atrous_by_phases": (layers.atrous_by_phases, ATROUS),
    "atrous_by_zero_inserted_kernel": (layers.atrous_by_zero_inserted_kernel, ATROUS),
    "effective_kernel_size": (layers.effective_kernel_size, dict(kernel_size=3, rate=2)),
    "gridding_coverage": (layers.gridding_coverage, dict(rates=(1, 2), kernel_size=3)),
    "valid_weight_counts": (layers.valid_weight_counts, dict(size=(9, 9), rate=2, kernel_size=3)),
    "resize_features": (layers.resize_features, dict(features=LOGITS, size=(12, 10))),
    "resize_labels": (layers.resize_labels, dict(labels=LABELS, size=(12, 10))),
    "crop_corner": (layers.crop_corner, dict(features=LOGITS, size=(5, 4))),
    "ASPP": (lambda *, x, **options: layers.ASPP(**options).eval()(x),
             dict(x=torch.randn(1, 2, 6, 6), in_channels=2, rates=(1, 2), out_channels=3, dropout=0.1)),
    "ImagePooling": (lambda *, x, **options: layers.ImagePooling(**options).eval()(x),
                     dict(x=torch.randn(1, 2, 6, 6), in_channels=2, out_channels=3)),
    "ConvBNReLU": (layers.ConvBNReLU, dict(in_channels=4, out_channels=6, kernel_size=3, rate=2, groups=2)),
    "conv_bn_relu": (layers.conv_bn_relu, dict(in_channels=4, out_channels=6, kernel_size=3, rate=2, separable=True)),
    "convolution_from_linear": (layers.convolution_from_linear,
                                dict(linear=nn.Linear(18, 4), in_channels=2, kernel_size=3)),
    "subsample_kernel": (layers.subsample_kernel, dict(convolution=nn.Conv2d(4, 6, 7), kernel_size=4, out_channels=3,
                                                       in_channels=2)),
    # losses
    "cross_entropy": (losses.cross_entropy, WEIGHTED),
    "ohem_cross_entropy": (losses.ohem_cross_entropy, WEIGHTED | dict(threshold=0.7, min_kept=0.5)),
    "focal_loss": (losses.focal_loss, WEIGHTED | dict(gamma=2.0)),
    "dice_loss": (losses.dice_loss, dict(logits=LOGITS, labels=LABELS, epsilon=1.0, squared=True, classes="all",
                                         class_weights=torch.ones(3))),
    "lovasz_softmax": (losses.lovasz_softmax, dict(logits=LOGITS, labels=LABELS, per_image=True, classes="present",
                                                   class_weights=torch.ones(3))),
    "edge_loss": (losses.edge_loss, dict(logits=LOGITS, labels=LABELS, distance=2, criterion="squared",
                                         reduction="sum", void=255)),
    "edge_logits": (losses.edge_logits, dict(logits=LOGITS, distance=2)),
    "binary_cross_entropy": (losses.binary_cross_entropy, dict(logits=LOGITS[:, :1], labels=LABELS.clamp(max=1),
                                                               class_weights=torch.ones(2))),
    "combine": (losses.combine, dict(coefficients={"cross_entropy": 1.0, "dice": 0.5}, class_weights=torch.ones(3))),
    "CombinedLoss": (losses.combine({"cross_entropy": 1.0, "dice": 0.5}),
                     dict(logits=LOGITS, labels=LABELS, valid_pixels=torch.tensor(60.0), void=255)),
    "count_valid_pixels": (losses.count_valid_pixels, dict(labels=LABELS, class_weights=torch.ones(3), void=255)),
    "median_frequency_weights": (losses.median_frequency_weights, dict(labels=[IDS], num_classes=3, void=255)),
    "median_frequency_weights_from_counts": (losses.median_frequency_weights_from_counts,
                                             dict(pixels=torch.tensor([3, 5]), image_pixels=torch.tensor([9, 9]))),
    # metrics
    "ConfusionMatrix": (lambda *, num_classes, **maps: metrics.ConfusionMatrix(num_classes).update(**maps),
                        dict(num_classes=3, predictions=LABELS, labels=LABELS, where=LABELS > 0)),
    "trimap_iou": (metrics.trimap_iou, dict(predictions=LABELS, labels=LABELS, num_classes=3, widths=(1, 2))),
    "trimap_band": (metrics.trimap_band, dict(labels=LABELS, width=2)),
    "panoptic_quality": (metrics.panoptic_quality, dict(predictions=PAIRS, labels=PAIRS, num_classes=3, things=(1, 2),
                                                        void=255)),
    # models
    "DeepLabV3": (lambda **widths: models.DeepLabV3(NET.backbone, layers.ASPP(2, (1, 2), 3), **widths),
                  dict(head_channels=3, num_classes=4, head_conv=True, aux_head=True)),
    "DeepLabV3Plus": (lambda **widths: models.DeepLabV3Plus(NET.backbone, **widths),
                      dict(num_classes=4, aspp_rates=(1, 2), separable=True, head_channels=8, low_level_channels=4,
                           decoder_convs=2)),
    # training; the step of a schedule is counted by the trainer, and workers are processes: both stay as they are
    "poly_schedule": (lambda **options: training.poly_schedule(**options)(3),
                      dict(total_steps=10, power=0.9, warmup_steps=2)),
    "step_schedule": (lambda **options: training.step_schedule(**options)(3),
                      dict(every=10, factor=0.1, warmup_steps=2)),
    "cosine_schedule": (lambda **options: training.cosine_schedule(**options)(3),
                        dict(total_steps=10, warmup_steps=2)),
    "momentum_from_decay": (training.momentum_from_decay, dict(decay=0.9997)),
    "set_batch_norm_momentum": (training.set_batch_norm_momentum, dict(model=NET, momentum=0.1)),
    "parameter_groups": (training.parameter_groups, dict(model=NET, learning_rate=0.1, weight_decay=1e-4,
                                                         head_multiplier=10.0, bias_multiplier=2.0)),
    "TrainConfig": (training.TrainConfig, CONFIG),
    "build_optimizer": (lambda **settings: training.build_optimizer(NET, training.TrainConfig(**settings)), CONFIG),
    "build_schedule": (lambda **settings: training.build_schedule(training.TrainConfig(**settings))(1), CONFIG),
    "preset_config": (training.preset_config, dict(data="scenes", preset="cpu", steps=10, batch_size=2)),
    "open_dataset": (training.open_dataset, dict(data="scenes", split="val", root=ROOT / "crf", scenes_size=(40, 44))),
    "read_metadata": (training.read_metadata, dict(path=CHECKPOINT)),
    "load_checkpoint": (training.load_checkpoint, dict(path=CHECKPOINT, num_classes=11)),
    "load_weights": (training.load_weights, dict(model=TEACHER, path=CHECKPOINT)),
    "StepLoss": (lambda *, out, labels, **options: training.StepLoss(["cross_entropy"], **options)(
        {"out": out, "aux_1": out}, labels), dict(out=LOGITS, labels=LABELS, label_stride=2, auxiliary_weight=0.4,
                                                  center_sigma=2.0, class_weights=torch.ones(3))),
    "evaluate": (training.evaluate, dict(model=TEACHER, dataset=SCENES, scales=(1.0,), flip=False, batch_size=2)),
    "PseudoLabels": (training.PseudoLabels, dict(dataset=SCENES, teacher=TEACHER, thresholds=0.05)),
    "class_thresholds": (training.class_thresholds, dict(dataset=SCENES, teacher=TEACHER, share=0.5, pixel_stride=4)),
    "UnlabeledPictures": (training.UnlabeledPictures, dict(folder=PICTURES, classes=("a", "b"))),
    # inference
    "predict": (inference.predict, dict(model=NET, image=PICTURE, short_side=64)),
    "predict_multiscale": (inference.predict_multiscale, dict(model=NET, image=PICTURE, scales=(1, 2), flip=True)),
    "predict_probabilities": (inference.predict_probabilities, dict(model=NET, image=PICTURE, scales=(1,), flip=True)),
    "predict_sliding_window": (inference.predict_sliding_window,
                               dict(model=NET, image=PICTURE, window=(36, 36), overlap=(4, 4))),
    "SlidingWindow": (inference.SlidingWindow, dict(model=NET, window=(36, 36), overlap=(4, 4))),
    "predict_panoptic": (inference.predict_panoptic, dict(model=PANOPTIC, image=PICTURE, things=(1, 2))),
    "tune_crf": (inference.tune_crf, dict(model=TEACHER, dataset=SCENES, count=1, scales=(1.0,), rounds=1,
                                          grid={"appearance_weight": (1.0,)}, iterations=1)),
    "overlay": (inference.overlay, dict(image=PICTURE, labels=IDS, palette=data.VOC_PALETTE, opacity=0.5)),
    "outline": (inference.outline, dict(picture=PICTURE, instances=IDS, color=(255, 0, 0))),
    "with_legend": (inference.with_legend, dict(picture=PICTURE, labels=IDS, classes=["a", "b", "c"],
                                                palette=data.VOC_PALETTE, instances=IDS)),
    "class_colors": (lambda *, num_classes, **metadata: inference.class_colors(
        {"model": {"num_classes": num_classes}, **metadata}),
        dict(num_classes=2, classes=["a", "b"], palette=[(0, 0, 0), (255, 0, 0)])),
    "find_pictures": (inference.find_pictures, dict(inputs=[str(PICTURES)])),
    # exercises
    "hint": (exercises.hint, dict(name="atrous.effective_kernel", number=1)),
    "solution": (exercises.solution, dict(name="atrous.effective_kernel")),
}  # fmt: skip

# What is given bad input in the tests of its own room: folders, trainings, files that are written.
ELSEWHERE = {
    "test_checkpoint.py": ["save_checkpoint"],
    "test_datasets.py": ["ImageMaskFolder", "VOC2012", "VOCFolder", "export_voc"],
    "test_exercises.py": ["check"],
    "test_inference.py": ["predict_files"],
    "test_inference_panoptic.py": ["predict_panoptic_files"],
    "test_interop.py": ["load_torchvision_weights"],
    "test_live.py": ["export_onnx"],
    "test_optim_batch_norm.py": ["freeze_batch_norm"],
    "test_optim_switches.py": ["Trainer"],
    "test_panoptic.py": ["PanopticQuality"],
    "test_pseudo_labels.py": ["self_train"],
    "test_training.py": ["train"],
}

# What calls or builds these hands over what it has checked itself: create_model the trunks, one function the other.
BUILT_BY = {
    "ConvolutionalClassifier": "create_model", "MiniTrunk": "create_model", "MobileNetV3Trunk": "create_model",
    "ResNetTrunk": "create_model", "VGG16Trunk": "create_model", "Xception65Trunk": "create_model",
    "TrimapIoU": "trimap_iou", "published_model": "create_model", "predict_files_with": "predict_files",
}  # fmt: skip

# What the package makes and returns, takes without arguments, or a base without code of its own.
RETURNED = {"Cost", "Evaluation", "LayerField", "LayerTable", "ReceptiveField", "Search", "TrainResult", "grid.Beliefs",
            "grid.Exact", "grid.MeanField", "grid.Modes"}  # fmt: skip
WITHOUT_ARGUMENTS = {"SegmentationDataset", "group_table", "progress"}  # the table is of what parameter_groups returns

ROOMS = ("", "backbones", "crf", "crf.grid", "data", "exercises", "inference", "layers", "losses", "models",
         "receptive_field", "training", "metrics", "panoptic_quality", "cost", "interop")  # fmt: skip

SIZES = st.integers(0, 7)
TENSOR_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8,
                torch.bool, torch.complex64)  # fmt: skip
ARRAY_TYPES = (np.uint8, np.int64, np.float32, np.float64, bool, np.uint16)
SPECIAL = (float("nan"), float("inf"), -float("inf"), 1e30, -1.0, 255.0, 0.0)


@st.composite
def tensors(draw: Any, like: torch.Tensor) -> torch.Tensor:
    """A tensor with another shape, type, layout, device or content."""
    shape = draw(st.one_of(st.just(list(like.shape)), st.lists(SIZES, max_size=5)))
    made = torch.randint(-4, 300, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))
    made = made.to(draw(st.sampled_from((like.dtype, *TENSOR_TYPES))))
    if made.numel() and made.is_floating_point():
        made.view(-1)[0] = draw(st.sampled_from(SPECIAL))
    if draw(st.booleans()) and made.ndim > 1:
        made = made.transpose(0, -1).contiguous().transpose(0, -1)  # other strides
    return made.to("meta") if draw(st.integers(0, 7)) == 0 else made


@st.composite
def arrays(draw: Any, like: np.ndarray) -> np.ndarray:
    shape = draw(st.one_of(st.just(list(like.shape)), st.lists(SIZES, max_size=4)))
    made = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 300, shape)
    made = made.astype(draw(st.sampled_from((like.dtype, *ARRAY_TYPES))))
    return made[::-1] if made.ndim and draw(st.booleans()) else made


def replacements(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same kind, which the function may take or not."""
    numbers = st.one_of(st.integers(-3, 9), st.floats(-3, 9), st.sampled_from(SPECIAL))
    if isinstance(value, torch.Tensor):
        return tensors(value)
    if isinstance(value, np.ndarray):
        return arrays(value)
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int | float):
        return numbers
    if isinstance(value, str):
        return st.text(max_size=12)
    if isinstance(value, Path):
        return st.text("abc./~", max_size=12).map(Path)
    if isinstance(value, tuple):
        return st.lists(numbers, max_size=4).map(tuple)
    if isinstance(value, list):
        return st.lists(replacements(value[0]), max_size=2)
    if isinstance(value, layers.dilation.StagePlan):
        return st.sampled_from([*layers.plan_dilation(8).with_multi_grid((1, 2, 4)).stages])
    if isinstance(value, dict):
        return st.dictionaries(st.sampled_from((*value, "unknown")), numbers, max_size=3)
    return st.just(value)  # a module


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer: a hang is then a failure."""

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def assert_own_words(error: Exception, *, name: str = "") -> None:
    """Refuse an error that was not raised by a `raise` in this package, and one that explains nothing."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{frame.filename}:{frame.lineno} {frame.line}\n{error!r}"
    assert Path(frame.filename).is_relative_to(ROOT), place
    assert str(frame.line).startswith("raise "), place
    assert len(str(error)) > 30, place
    assert ":" in str(error), place
    assert name in str(error), place


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(choices=st.data())
def test_what_is_handed_over_by_mistake_is_refused_in_our_own_words(name: str, choices: st.DataObject) -> None:
    function, arguments = CALLS[name]
    key = choices.draw(st.sampled_from(list(arguments)))
    given_value = choices.draw(replacements(arguments[key]))
    try:
        with at_most(10):
            function(**{**arguments, key: given_value})
    except OWN as error:
        assert_own_words(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_the_arguments_that_are_spoiled_are_right_before(name: str) -> None:
    function, arguments = CALLS[name]
    function(**arguments)


# ---- the texts: one argument of a call above, replaced, and what is said

META = torch.zeros(2, 6, 5, dtype=torch.int64, device="meta")
VGG_PLAN = layers.plan_dilation(8, {"pool1": 2, "pool2": 2, "pool3": 2})
MESSAGES: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    # layers
    ("effective_kernel_size", dict(rate=1.5), ValueError, "rate=1.5: allowed are whole numbers from 1"),
    ("effective_kernel_size", dict(kernel_size=True), ValueError, "kernel_size=True: allowed are whole numbers from 1"),
    ("atrous_by_sum", dict(stride=0), ValueError, "stride=0: allowed are whole numbers from 1"),
    ("atrous_by_phases", dict(padding=-1), ValueError, "padding=-1: allowed are whole numbers from 0"),
    ("atrous_by_sum", dict(inputs=torch.zeros(0, 2, 6, 6)), ValueError, r"inputs \[0, 2, 6, 6\] .* are empty"),
    ("atrous_by_sum", dict(inputs=torch.zeros(1, 2, 6, 6).long()), TypeError,
     "inputs are torch.int64 .* allowed are floats"),
    ("atrous_by_sum", dict(weight=torch.zeros(3, 2, 3, 3).double()), TypeError,
     "inputs are torch.float32 and the weight "
     "torch.float64: allowed is one type"),
    ("atrous_by_sum", dict(weight=torch.zeros(3, 2, 3, 3, device="meta")), ValueError,
     "inputs are on cpu and the weight on "
     "meta: allowed is one device"),
    ("valid_weight_counts", dict(size=(9,)), ValueError, r"size=\(9,\): allowed are two whole numbers from 1"),
    ("resize_features", dict(size=(0, 5)), ValueError, r"size=\(0, 5\): allowed are two whole numbers from 1"),
    ("resize_features", dict(features=torch.zeros(3, 6, 5)), ValueError,
     r"features are \[3, 6, 5\]: allowed is \[N, C, H"),
    ("resize_features", dict(features=LOGITS.long()), TypeError, "features are torch.int64: allowed are floats"),
    ("crop_corner", dict(size=5), ValueError, "size=5: allowed are two whole numbers"),
    ("resize_labels", dict(labels=LOGITS[0]), TypeError, "labels are torch.float32: allowed are class ids"),
    ("resize_labels", dict(labels=LABELS[None]), ValueError,
     r"labels are \[1, 2, 6, 5\]: allowed is \[H, W\] or \[N, H"),
    ("resize_labels", dict(labels=META), ValueError, "labels are on the meta device, which holds shapes"),
    ("ASPP", dict(x=torch.zeros(1, 3, 6, 6)), ValueError, r"allowed are 2 channels, .* \(in_channels\)"),
    ("ASPP", dict(x=torch.zeros(1, 2, 6, 6).double()), TypeError, "features are torch.float64 and the layer's weights"),
    ("ImagePooling", dict(x=torch.zeros(2, 6)), ValueError, r"features are \[2, 6\]: .* batch dimension"),
    ("ASPP", dict(rates=(6, 0)), ValueError, "rate=0: allowed are whole numbers from 1"),
    ("ASPP", dict(dropout=2), ValueError, "dropout=2: allowed are probabilities"),
    ("ConvBNReLU", dict(groups=3), ValueError, "groups=3: allowed are numbers of channels that the groups divide"),
    ("convolution_from_linear", dict(kernel_size=0), ValueError, "kernel_size=0: allowed are whole numbers from 1"),
    ("subsample_kernel", dict(out_channels=2.0), ValueError, "2.0 of 6 channels: allowed are divisors"),
    ("plan_dilation", dict(strides={"stem": 0.5}), ValueError, "the stride of stem=0.5: allowed are whole numbers"),
    ("plan_dilation", dict(aspp_rates_at_16=(6, -1)), ValueError,
     r"aspp_rates_at_16=\(6, -1\): allowed are finite numbers"),
    # models
    ("SegmentationModel", dict(images=torch.zeros(1, 3, 40, 36).double()), TypeError,
     "images are torch.float64 and the "
     "model's weights torch.float32: allowed is one type"),
    ("SegmentationModel", dict(images=torch.zeros(1, 3, 40, 36, device="meta")), ValueError,
     "images are on meta and the "
     "model's weights on cpu: allowed is one device"),
    ("DeepLabV3", dict(num_classes=1), ValueError, "num_classes=1: allowed are whole numbers from 2"),
    ("DeepLabV3Plus", dict(num_classes=2.5), ValueError, "num_classes=2.5: allowed are whole numbers from 2"),
    # receptive field, cost
    ("receptive_field", dict(input_size=(9, 9, 9)), ValueError,
     r"input_size=\(9, 9, 9\): allowed are two whole numbers"),
    ("receptive_field", dict(in_channels=5), ValueError, "Conv2d does not take an image of 9x9 .* with 5 channels"),
    ("receptive_field", dict(position=(11, 0)), ValueError, r"position=\(11, 0\): allowed are .* 0 to 8 and 0 to 8"),
    ("gradient_receptive_field", dict(position=(0,)), ValueError, r"position=\(0,\): allowed are two whole numbers"),
    ("layer_table", dict(in_channels=0), ValueError, "in_channels=0: allowed are whole numbers from 1"),
    ("cost", dict(input_size=9), ValueError, "input_size=9: allowed are two whole numbers from 1"),
    # losses and metrics
    ("cross_entropy", dict(labels=META), ValueError, "logits are on cpu and labels on meta: allowed is one device"),
    ("cross_entropy", dict(valid_pixels=torch.ones(2)), ValueError,
     r"valid_pixels are torch.float32 \[2\]: allowed is a"),
    ("focal_loss", dict(class_weights=torch.ones(3).bool()), TypeError,
     "class_weights are torch.bool: allowed are floats"),
    ("dice_loss", dict(class_weights=torch.ones(3, device="meta")), ValueError, "class_weights are on the meta device"),
    ("edge_logits", dict(logits=LOGITS.long()), TypeError, "logits are torch.int64: allowed are floats"),
    ("edge_logits", dict(distance=1.5), ValueError, "distance=1.5: allowed are whole numbers of pixels from 1"),
    ("count_valid_pixels", dict(labels=LABELS + 5), ValueError, r"labels hold the ids \[5, 6, 7\]: allowed are 0 to 2"),
    ("count_valid_pixels", dict(labels=LABELS[0]), ValueError, r"labels are \[6, 5\]: allowed is \[N, H, W\]"),
    ("count_valid_pixels", dict(class_weights=torch.tensor(2.0)), ValueError,
     r"class_weights are \[\]: allowed is \[C\]"),
    ("median_frequency_weights", dict(num_classes=0), ValueError, "num_classes=0: allowed are whole numbers from 1"),
    ("median_frequency_weights_from_counts", dict(pixels=torch.ones(2, device="meta")), ValueError,
     "pixels are on the meta"),
    ("ConfusionMatrix", dict(num_classes=3.0), ValueError, "num_classes=3.0: allowed are whole numbers from 1"),
    ("ConfusionMatrix", dict(where=LABELS), TypeError, "where is torch.int64: allowed is bool"),
    ("ConfusionMatrix", dict(predictions=META), ValueError, "predictions are on meta and labels on cpu"),
    ("trimap_band", dict(labels=LOGITS[0]), TypeError, "labels are torch.float32: allowed are class ids"),
    ("trimap_band", dict(width=1.5), ValueError, "the band's width is 1.5: allowed are whole numbers of pixels from 1"),
    ("panoptic_quality", dict(num_classes=-1), ValueError, "num_classes=-1: allowed are whole numbers from 1"),
    # data
    ("normalize", dict(image=PICTURE[..., :2]), ValueError,
     r"the shape \(40, 36, 2\): allowed is \(height, width, 3\)"),
    ("normalize", dict(image=PICTURE[:0]), ValueError, r"the shape \(0, 36, 3\): .* not empty"),
    ("normalize of a tensor", dict(image=torch.zeros(6, 5, 3).byte()), ValueError,
     r"tensor \[6, 5, 3\]: allowed .* permute"),
    ("denormalize", dict(image=torch.zeros(1, 3, 6, 5)), ValueError,
     r"\[1, 3, 6, 5\]: allowed is one .* take images\[0\]"),
    ("denormalize", dict(image=torch.zeros(3, 6, 5).byte()), TypeError, "the image is torch.uint8: allowed are floats"),
    ("denormalize", dict(image=torch.full((3, 6, 5), torch.nan)), ValueError,
     "nan or infinite values: allowed are finite"),
    ("TrainTransform", dict(label=IDS[:-1]), ValueError, r"\(40, 36, 3\) and its label \(39, 36\): allowed are"),
    ("EvalTransform", dict(label=IDS / 2), TypeError, "the label is float64: allowed are integers"),
    ("colorize", dict(labels=IDS.astype(int) - 1), ValueError, "labels hold the ids -1 to 1: allowed are 0 to 255"),
    ("colorize", dict(labels=IDS / 2), TypeError, "the labels are float64: allowed are integers"),
    ("colorize", dict(palette=data.VOC_PALETTE[0]), ValueError, r"the palette is \(3,\): allowed is \(colors, 3\)"),
    # crf
    ("PermutohedralLattice", dict(features=POINTS * 1e7), ValueError,
     r"features reach .* sigma: allowed are finite numbers "
     r"up to 1.04858e\+06; .* larger sigma"),
    ("BilateralGrid", dict(features=torch.full((30, 3), torch.nan)), ValueError, "features reach nan sigma"),
    ("BilateralGrid", dict(group=-torch.ones(30).long()), TypeError,
     "group is torch.int64: allowed are whole numbers from 0"),
    ("PermutohedralLattice", dict(group=torch.zeros(3).long()), ValueError,
     r"group is \[3\] .* allowed is one number a point"),
    ("PermutohedralLattice", dict(values=torch.zeros(3, 2)), ValueError, r"values are \[3, 2\]: allowed is \[30, L\]"),
    ("BilateralGrid", dict(values=torch.zeros(30, 2).double()), TypeError, "values are torch.float64 and the features"),
    ("free_energy", dict(marginals=LOGITS), ValueError, "marginals go from .*: allowed is 0 to 1; take the softmax"),
    ("mean_field", dict(compatibility=[[0, 1], [1, 0]]), TypeError,
     "compatibility is list: allowed is a tensor of numbers"),
    ("tune", dict(grid={"appearance_weight": 3}), TypeError,
     "the grid has 3 for appearance_weight: allowed is a sequence"),
    ("tune", dict(rounds=1.5), ValueError, "rounds=1.5: allowed are whole numbers from 1"),
    ("tune", dict(label=LABELS), ValueError, r"a label is \[2, 6, 5\]: allowed is \[6, 5\]"),
    ("grid.Grid", dict(unary=torch.zeros(3, 2, 3, device="meta")), ValueError, "unary are on the meta device"),
    ("grid.Grid", dict(vertical=torch.zeros(1, 3).cfloat()), TypeError,
     "vertical is torch.complex64: allowed are real"),
    # training
    ("TrainConfig", dict(steps=2.5), ValueError, "steps=2.5: allowed are whole numbers from 1"),
    ("TrainConfig", dict(steps=float("nan")), ValueError, "steps=nan: allowed are whole numbers from 1"),
    ("TrainConfig", dict(warmup_steps=-1), ValueError, "warmup_steps=-1: allowed are whole numbers from 0"),
    ("TrainConfig", dict(learning_rate=float("inf")), ValueError, "learning_rate=inf: it must be above 0 and finite"),
    ("TrainConfig", dict(weight_decay=-1.0), ValueError, "weight_decay=-1.0: allowed are finite numbers from 0"),
    ("TrainConfig", dict(momentum=1.0), ValueError, "momentum=1.0: allowed are numbers from 0 up to, not including, 1"),
    ("TrainConfig", dict(crop=()), ValueError, r"crop=\(\): height and width must be at least 33"),
    ("TrainConfig", dict(flip=2), ValueError, "flip=2, color_jitter=0.0: allowed are numbers from 0 to 1"),
    ("TrainConfig", dict(losses=(1,)), ValueError, r"losses=\(1,\): allowed are texts, NAME or NAME=FACTOR"),
    ("StepLoss", dict(label_stride=0), ValueError, "label_stride=0: allowed are whole numbers from 1"),
    ("StepLoss", dict(labels=torch.zeros(5)), ValueError, r"logits or labels are \[5\]: allowed are"),
    ("evaluate", dict(batch_size=1.5), ValueError, "batch_size=1.5, workers=0: allowed are a batch from 1"),
    ("class_thresholds", dict(pixel_stride=1.5), ValueError, "pixel_stride=1.5: allowed are whole numbers from 1"),
    # inference
    ("predict", dict(short_side=0), ValueError, "short_side=0: allowed are whole numbers of pixels from 1"),
    ("predict", dict(image=PICTURE[:, :0]), ValueError,
     r"the shape \(40, 0, 3\): allowed is \(height, width, 3\), not empty"),
    ("predict_multiscale", dict(scales=(50, 75)), ValueError,
     r"scales=\(50.0, 75.0\): .* up to 16, .* write 0.5 for 50 perc"),
    ("overlay", dict(image=PICTURE / 255), TypeError, "the image is float64: allowed is uint8 RGB"),
    ("overlay", dict(opacity=55), ValueError, "opacity=55: allowed are numbers from 0"),
    ("outline", dict(color=(255, 0)), ValueError, r"color=\(255, 0\): allowed are three whole numbers from 0 to 255"),
    ("with_legend", dict(palette=data.VOC_PALETTE[:2]), ValueError,
     r"the palette is uint8 \(2, 3\): .* each of 3 classes"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "kind", "message"), MESSAGES)
def test_what_is_refused_says_what_was_seen_what_is_allowed_and_the_fix(
    name: str, change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    function, arguments = CALLS[name]
    with pytest.raises(kind, match=message):
        function(**{**arguments, **change})


def test_plan_of_another_trunk_names_the_stages_it_has() -> None:
    with pytest.raises(KeyError, match="the plan has no stage 'layer4': allowed are pool1, pool2, pool3; make a plan"):
        VGG_PLAN["layer4"]


# ---- every public name


def public_names() -> dict[str, str]:
    """What can be called, with its room; grid's names by grid.name, since crf has some of them too."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module("deeplab_lesson" + (f".{room}" if room else ""))
        names = getattr(module, "__all__", None) or [
            name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        ]
        for name in names:
            if callable(getattr(module, name)) and not name.startswith("_"):
                found[f"grid.{name}" if room == "crf.grid" else name] = room
    return found


def elsewhere() -> list[tuple[str, str]]:
    return [(file, name) for file, names in ELSEWHERE.items() for name in names]


def listed() -> list[str]:
    return [*(name for _, name in elsewhere()), *BUILT_BY, *RETURNED, *WITHOUT_ARGUMENTS]


def test_every_public_name_is_given_bad_input() -> None:
    assert sorted(set(public_names()) - {*CALLS, *listed()}) == []


def test_the_tables_name_what_exists_and_each_name_once() -> None:
    assert sorted(set(listed()) - set(public_names())) == []
    assert sorted({name for name in listed() if listed().count(name) > 1 or name in CALLS}) == []
    assert set(BUILT_BY.values()) <= {*CALLS, *listed()}


@pytest.mark.parametrize(("file", "name"), elsewhere())
def test_the_other_file_gives_this_name_bad_input(file: str, name: str) -> None:
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    tests = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert any("pytest.raises" in text and re.search(rf"\b{name}\b", text) for text in tests)


@pytest.mark.parametrize("name", sorted(RETURNED))
def test_what_is_returned_is_a_plain_record(name: str) -> None:
    module = importlib.import_module(f"deeplab_lesson.{public_names()[name]}")
    record = getattr(module, name.removeprefix("grid."))
    assert dataclasses.is_dataclass(record) or issubclass(record, tuple)


# ---- damaged files


def write_whole_files(folder: Path) -> None:
    """One file of each kind that the package reads, as it writes it."""
    data.export_voc(folder / "voc", {"val": SCENES})
    shutil.copy(folder / "voc" / "classes.txt", folder)
    shutil.copy(folder / "voc" / "ImageSets" / "Segmentation" / "val.txt", folder)
    shutil.copy(folder / "voc" / "SegmentationClass" / "val_00000.png", folder / "label.png")
    shutil.copy(folder / "voc" / "JPEGImages" / "val_00000.png", folder / "picture.png")
    shutil.copy(CHECKPOINT, folder / "model.safetensors")
    write_crf(folder / "crf.json", KERNELS | {"compatibility": 1 - torch.eye(2)})
    save_state(folder / "resume.pt", {"step": 7, "settings": {"steps": "9"}, "model": TEACHER.state_dict()})
    lines = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "self_training.json").write_text(json.dumps(SELF_TRAINING) + "\n")


def read_split(path: Path) -> None:
    target = path.parent / "voc" / "ImageSets" / "Segmentation" / "val.txt"
    shutil.copy(path, target)
    data.VOCFolder(path.parent / "voc", "val")


def go_on_reporting(path: Path) -> None:
    with Reporter(path.parent, 3, 9, 2, tensorboard=False):
        pass


SELF_TRAINING = {"share": 0.5, "threshold": None, "labeled_share": 0.25}
READERS: dict[str, Callable[[Path], Any]] = {
    "classes.txt": read_classes,
    "val.txt": read_split,
    "label.png": lambda path: read_label(path, SCENES.classes, SCENES.palette),
    "picture.png": read_image,
    "crf.json": read_crf,
    "model.safetensors": training.load_checkpoint,
    "resume.pt": load_state,
    "metrics.jsonl": go_on_reporting,
    "self_training.json": lambda path: refuse_other(SELF_TRAINING, path),
}


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_whole_files(folder)
    return folder


def damaged(choices: st.DataObject, content: bytes) -> bytes:
    """Other bits in up to eight bytes, most of them near the beginning, where headers are; and often a cut."""
    changed, last = bytearray(content), len(content) - 1
    places = st.one_of(st.integers(0, min(last, 400)), st.integers(0, last))
    for place, bits in choices.draw(st.dictionaries(places, st.integers(1, 255), max_size=8)).items():
        changed[place] ^= bits
    keep = choices.draw(st.one_of(st.just(len(content)), st.integers(0, last)))
    return bytes(changed[:keep])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(choices=st.data())
def test_damaged_file_is_read_or_refused_by_its_name(name: str, whole_files: Path, choices: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if name == "val.txt":
            shutil.copytree(whole_files / "voc", path.parent / "voc")
        path.write_bytes(damaged(choices, (whole_files / name).read_bytes()))
        try:
            with at_most(10):
                READERS[name](path)
        except OWN as error:
            assert_own_words(error, name=name)


@pytest.mark.parametrize("name", READERS)
def test_whole_file_is_read(name: str, whole_files: Path) -> None:
    READERS[name](whole_files / name)


class Trap:
    """Unpickled, it would make the folder `trap`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.folder / "trap",)


@pytest.mark.parametrize("name", ["model.safetensors", "resume.pt"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_pickle_in_place_of_a_checkpoint_is_refused_and_not_run(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if form == "pickle":
        path.write_bytes(pickle.dumps(Trap(tmp_path)))
    else:
        torch.save({"model": Trap(tmp_path), "step": 1, "settings": {}}, path)
    with pytest.raises(ValueError, match=name):
        READERS[name](path)
    assert not (tmp_path / "trap").exists()


# ---- names that lead out of the set's folder

OUTSIDE = ["../../../secret", "/etc/passwd", "..", "a/../../../secret", "..\\secret", "C:\\secret"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_list_that_names_a_file_outside_of_the_set_is_refused(name: str, whole_files: Path, tmp_path: Path) -> None:
    root = shutil.copytree(whole_files / "voc", tmp_path / "set" / "voc")
    for secret in (tmp_path / "secret.png", tmp_path / "set" / "secret.png"):
        shutil.copy(whole_files / "picture.png", secret)
    split = root / "ImageSets" / "Segmentation" / "val.txt"
    split.write_text(f"val_00000\n{name}\n")
    with pytest.raises(ValueError, match=r"val.txt has the name .* leads out of the set's folder: allowed are names"):
        data.VOCFolder(root, "val")


@pytest.mark.parametrize("kind", [data.VOCFolder, data.ImageMaskFolder])
@pytest.mark.parametrize("split", OUTSIDE)
def test_split_that_leads_out_of_the_set_is_refused(split: str, kind: type, whole_files: Path) -> None:
    with pytest.raises(ValueError, match=r"split=\.\.\. has the name .* leads out of the set's folder"):
        kind(whole_files / "voc", split)


def test_export_writes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'\.\./\.\./out', which leads out of the set's folder"):
        data.export_voc(tmp_path / "a" / "b", {"../../out": SCENES})
    assert not list(tmp_path.iterdir())


def test_checkpoint_that_asks_for_a_download_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("downloads")

    monkeypatch.setattr("deeplab_lesson.models.registry.fill_with_published", refuse)
    model = create_model("fcn32s_mini", 3)
    model.spec = {"name": "deeplabv3_resnet50", "num_classes": 21, "output_stride": 8, "weights": "torchvision"}
    training.save_checkpoint(tmp_path / "model.safetensors", model, {})
    with pytest.raises(ValueError, match=r"model.safetensors holds the weights of another model"):
        training.load_checkpoint(tmp_path / "model.safetensors")
