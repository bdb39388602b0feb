"""One training step: what makes it fast changes no number, waits for nothing, and is left out where it is not there."""

import contextlib
import dataclasses
import json
from functools import partial

import pytest
import safetensors.torch
import torch
from short_training import short_config, short_sets, short_training
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from deeplab_lesson import create_model
from deeplab_lesson.data import Scenes, TrainTransform
from deeplab_lesson.data.transforms import normalize
from deeplab_lesson.losses import count_valid_pixels
from deeplab_lesson.training import StepLoss, TrainConfig, Trainer, build_optimizer, train
from deeplab_lesson.training.compiled import compile_or_keep
from deeplab_lesson.training.forward import ModelWithLoss
from deeplab_lesson.training.hardware import fast_kernels
from deeplab_lesson.training.loader import training_batches
from deeplab_lesson.training.update import Update

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = 11


def weights(folder) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "last.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def losses(folder) -> list[float]:
    return [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            if "loss" in line]  # fmt: skip


def small_model(dropout: float | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("deeplabv3_mini", CLASSES)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout) and dropout is not None:
            layer.p = dropout
    return model


def batch(size: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (4, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, (4, size, size), generator=generator, dtype=torch.uint8)
    labels[:, :5] = 255
    return images, labels


# pictures as bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_sent_as_bytes_give_the_same_bits(tmp_path, workers):
    settings = {"steps": 6, "color_jitter": 0.4, "class_weights": "median_frequency", "accumulate": 2, "batch_size": 4}
    for name, sent in (("bytes", True), ("floats", False)):
        short_training(tmp_path / name, uint8_upload=sent, workers=workers, **settings)
    assert same(weights(tmp_path / "bytes"), weights(tmp_path / "floats"))


def test_panoptic_training_from_bytes_gives_the_same_bits(tmp_path):
    sets = {f"{split}_set": Scenes(split, (64, 64), length=3, instances=True) for split in ("train", "val")}
    for name, sent in (("bytes", True), ("floats", False)):
        train(short_config(tmp_path / name, steps=3, model="panoptic_deeplab_mini", uint8_upload=sent), **sets)
    assert same(weights(tmp_path / "bytes"), weights(tmp_path / "floats"))


def test_loader_sends_a_quarter_of_the_bytes_and_normalizing_them_gives_its_floats(tmp_path):
    config = short_config(tmp_path, color_jitter=0.3)
    found = {}
    for sent in (True, False):
        config = dataclasses.replace(config, uint8_upload=sent)
        found[sent] = next(iter(training_batches(short_sets()["train_set"], config, torch.device("cpu"), first_step=0)))
    (pictures, ids), (images, labels) = found[True], found[False]
    assert (pictures.dtype, ids.dtype, images.dtype, labels.dtype) == (
        torch.uint8, torch.uint8, torch.float32, torch.int64,
    )  # fmt: skip
    assert torch.equal(normalize(pictures), images)
    assert torch.equal(ids.long(), labels)


def test_training_that_sent_floats_may_go_on_with_bytes(tmp_path):
    short_training(tmp_path, steps=4, uint8_upload=False)
    assert short_training(tmp_path, steps=4, uint8_upload=True, resume=True).finished


def test_view_as_bytes_keeps_the_types_of_the_set():
    image, label = Scenes("train", (64, 64), length=1).read(0)
    generator = torch.Generator().manual_seed(3)
    picture, ids, objects = TrainTransform((48, 48), as_bytes=True)(
        image, label, generator, instances=label.astype("int32")
    )
    assert (picture.dtype, ids.dtype, objects.dtype) == (torch.uint8, torch.uint8, torch.int32)
    assert picture.shape == (3, 48, 48)


# waiting for the device -------------------------------------------------------------------------------------------


class Copies(TorchDispatchMode):
    """Notes what goes from one kind of device to another, and how."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        devices = {part.device.type for part in args if isinstance(part, torch.Tensor) and part.ndim}
        if kwargs.get("device"):
            devices.add(kwargs["device"].type)
        if len(devices) > 1:
            self.found.append((str(function), kwargs.get("non_blocking", False)))
        return function(*args, **kwargs)


@pytest.fixture
def update_elsewhere(monkeypatch):
    """Makes updates on torch's meta device: as with a GPU, batches are sent; unlike there, looking is an error."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())  # does not know meta

    def make(name: str = "deeplabv3_mini", **settings) -> Update:
        with torch.device("meta"):
            model = create_model(name, CLASSES)
        return Update(model, TrainConfig(**settings), torch.device("meta"), torch.float32)

    return make


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"accumulate": 2},
        {"losses": ("ohem_cross_entropy", "dice", "focal", "edge"), "label_stride": 2},
        {"optimizer": "adamw", "uint8_upload": False},
    ],
)
def test_step_sends_the_batch_and_never_waits(update_elsewhere, settings):
    update = update_elsewhere(**settings)
    for step in range(2):
        with Copies() as copies:
            loss = update(step, *batch())
        assert loss.device.type == "meta"
        assert all(later for _, later in copies.found), copies.found
        assert len(copies.found) == 1 + update.config.accumulate, "labels, and pictures in their pieces"


def test_looking_at_a_number_would_be_noticed(update_elsewhere, monkeypatch):
    update = update_elsewhere()
    real = update.forward.forward
    monkeypatch.setattr(update.forward, "forward", lambda *args, **options: real(*args, **options) * 1.0)
    update(0, *batch())
    monkeypatch.setattr(
        update.forward, "forward", lambda *args, **options: (loss := real(*args, **options)) * float(loss.detach() > 0)
    )
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        update(1, *batch())


def test_counting_valid_pixels_of_bytes_equals_that_of_int64(update_elsewhere):
    update = update_elsewhere(accumulate=4)
    found = []
    update.class_weights = torch.linspace(0.5, 2.0, CLASSES)
    update.pool = lambda count: found.append(count) or count
    _, labels = batch()
    update._valid_pixels(labels)
    assert found[0] == count_valid_pixels(labels.long(), update.class_weights)


# the switches that need a GPU: what would be asked of it ----------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "precision", "tf32", "autotune"),
    [
        ({}, "high", True, True),
        ({"tf32": False}, "highest", False, True),
        ({"autotune": False}, "high", True, False),
        ({"deterministic": True}, "highest", False, False),
    ],
)
def test_kernels_of_a_gpu_follow_the_settings_and_are_put_back(settings, precision, tf32, autotune):
    cudnn = torch.backends.cudnn

    def now():
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark

    before = now()
    with fast_kernels(TrainConfig(**settings), torch.device("cuda")):
        assert now() == (precision, tf32, autotune)
    assert now() == before
    with pytest.raises(KeyError), fast_kernels(TrainConfig(), torch.device("cuda")):
        raise KeyError
    assert now() == before, "after an error too"
    with fast_kernels(TrainConfig(), torch.device("cpu")):
        assert now() == before


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("device", "wanted", "fused"), [("cuda", True, True), ("cuda", False, False),
                                                         ("cpu", True, False)])  # fmt: skip
def test_optimizer_is_fused_on_a_gpu_alone(optimizer, device, wanted, fused):
    with FakeTensorMode(), torch.device(device):
        model = nn.Conv2d(3, 4, 1)
        built = build_optimizer(model, TrainConfig(optimizer=optimizer, fused_optimizer=wanted))
    assert bool(built.defaults["fused"]) is fused


def test_pinned_memory_is_for_gpus_and_workers_keep_batches_ready(tmp_path):
    config = short_config(tmp_path, workers=2)
    data = short_sets()["train_set"]
    assert training_batches(data, config, torch.device("cuda"), first_step=0).pin_memory
    loader = training_batches(data, config, torch.device("cpu"), first_step=0)
    assert not loader.pin_memory
    assert loader.prefetch_factor == 4


@pytest.mark.parametrize("channels_last", [True, False])
def test_order_in_memory_follows_the_setting(tmp_path, channels_last):
    run = Trainer(short_config(tmp_path, channels_last=channels_last), **short_sets())
    seen = []
    run.model.register_forward_pre_hook(lambda model, args: seen.append(args[0]))
    real = run.model.forward_heads
    run.model.forward_heads = lambda images: (seen.append(images), real(images))[1]
    run._update(*batch())
    assert seen[0].is_contiguous(memory_format=torch.channels_last) is channels_last
    kernel = next(p for p in run.model.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last) is channels_last


@pytest.mark.parametrize("name", ["tf32", "autotune", "fused_optimizer"])
def test_switches_for_a_gpu_change_no_bit_on_a_cpu(tmp_path, name):
    for value in (True, False):
        short_training(tmp_path / str(value), steps=2, **{name: value})
    assert same(weights(tmp_path / "True"), weights(tmp_path / "False"))


def test_order_in_memory_changes_the_loss_by_rounding_only(tmp_path):
    """Without dropout, which draws in the order of the memory."""
    for value in (True, False):
        config = short_config(tmp_path / str(value), steps=1, channels_last=value)
        train(config, model=small_model(dropout=0.0), **short_sets())
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=1e-5)


# compiling --------------------------------------------------------------------------------------------------------


def test_model_with_its_loss_compiles_to_one_graph_on_a_gpu(update_elsewhere):
    """A break would cost a start of its own; on a CPU the losses look at the labels, which breaks it."""
    torch._dynamo.reset()
    update = update_elsewhere(losses=("cross_entropy", "focal"), label_stride=2)
    images, labels = (tensor.to("meta") for tensor in batch())
    whole = torch.compile(update.forward, backend="eager", fullgraph=True, dynamic=False)
    whole(images, labels).backward()
    assert all(parameter.grad is not None for parameter in update.model.parameters())


def test_compiled_training_gives_the_same_bits_and_the_same_names(tmp_path, monkeypatch):
    """With a compiler that changes no operation."""
    torch._dynamo.reset()
    calls = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **kw: (calls.append(kw), real(*args, backend="eager", **kw))[1])
    short_training(tmp_path / "plain", steps=4, log_every=1)
    result = short_training(tmp_path / "compiled", steps=4, log_every=1, compile=True)
    assert calls == [{"dynamic": False}]
    assert losses(tmp_path / "plain") == losses(tmp_path / "compiled")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "compiled"))
    assert not any("_orig_mod" in name for name in [*weights(tmp_path / "compiled"), *result.model.state_dict()])


def failing_to_compile(module, **options):
    raise RuntimeError("Dynamo is not supported on Python 9\nmore lines")


def failing_at_the_first_call(module, **options):
    def forward(*args, **more):
        module(*args, **more)  # BatchNorm and dropout have moved
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nmore lines")

    return forward


def failing_in_backward(module, **options):
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value):
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("backend='inductor' raised: no Triton")

    return lambda *args, **more: Fails.apply(module(*args, **more))


@pytest.mark.parametrize("broken", [failing_to_compile, failing_at_the_first_call, failing_in_backward])
def test_where_compiling_fails_one_line_says_so_and_the_bits_are_those_without(tmp_path, monkeypatch, capsys, broken):
    monkeypatch.setattr(torch, "compile", broken)
    model = {"model": "deeplabv3_mini"}  # with dropout
    short_training(tmp_path / "plain", steps=3, **model)
    capsys.readouterr()
    short_training(tmp_path / "compile", steps=3, compile=True, **model)
    lines = [line for line in capsys.readouterr().out.splitlines() if "--compile" in line]
    assert len(lines) == 1
    assert lines[0].startswith("--compile: not possible here (RuntimeError: ")
    assert lines[0].endswith("); going on without it")
    assert "more lines" not in lines[0]
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "compile"))


def test_lack_of_memory_is_no_failure_to_compile(monkeypatch):
    def lacking(module, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "compile", lacking)
    module = ModelWithLoss(small_model(), StepLoss())
    with pytest.raises(torch.OutOfMemoryError):
        compile_or_keep(module, *batch())


def test_trial_of_the_compiler_leaves_no_trace(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda module, **options: module)
    module = ModelWithLoss(small_model().train(), StepLoss())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    random = torch.get_rng_state()
    assert compile_or_keep(module, *batch()) is module
    assert same(before, module.state_dict())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.slow
def test_compiled_by_inductor_the_losses_are_the_same(tmp_path):
    torch._dynamo.reset()
    for name, wanted in (("plain", False), ("compiled", True)):
        config = short_config(tmp_path / name, steps=4, log_every=1, compile=wanted)
        train(config, model=small_model(dropout=0.0), **short_sets())  # inductor draws other numbers
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)


# in 16 bits -------------------------------------------------------------------------------------------------------


def test_loss_is_in_float32_whatever_the_models_precision():
    seen = []

    class Watched(StepLoss):
        def __call__(self, heads, *rest, **options):
            seen.extend(tensor.dtype for tensor in heads.values())
            return super().__call__(heads, *rest, **options)

    loss = ModelWithLoss(small_model(), Watched(), torch.bfloat16)(*batch())
    assert torch.bfloat16 in seen
    assert loss.dtype == torch.float32


def test_float16_skips_a_step_that_overflows_and_lowers_its_scale(tmp_path):
    run = Trainer(short_config(tmp_path), **short_sets())
    run.update.scaler = torch.GradScaler("cpu", init_scale=2.0**10)
    run._update(*batch())
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    next(run.model.parameters()).register_hook(partial(torch.full_like, fill_value=torch.inf))
    run._update(*batch())
    assert all(torch.equal(was, now) for was, now in zip(before, run.model.parameters(), strict=True))
    assert run.update.scaler.get_scale() == 2.0**9
    assert run.update.first_bad() is None, "an overflow is no error: the next step has a smaller scale"
