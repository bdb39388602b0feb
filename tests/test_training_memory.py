"""A training that does not fit says what was tried and which setting fits, and loses nothing."""

import re

import pytest
import torch
from short_training import short_training

from deeplab_lesson import create_model
from deeplab_lesson.cost import cost
from deeplab_lesson.training import TrainConfig, Trainer, freeze_batch_norm, memory
from deeplab_lesson.training.checkpoint import load_state
from deeplab_lesson.training.memory import GIB, Memory, bytes_needed, does_not_fit, is_out_of_memory

CUDA = torch.device("cuda")


@pytest.fixture
def gib(monkeypatch):
    """Sets how much memory there seems to be."""

    def set_gib(total: float) -> None:
        found = Memory(round(total * GIB / 2), round(total * GIB), round(total * GIB))
        monkeypatch.setattr(memory, "memory_of", lambda device: found)

    return set_gib


def large_config(**changes) -> TrainConfig:
    return TrainConfig(**{"model": "deeplabv3_resnet50", "batch_size": 16, "crop": (513, 513), **changes})


@pytest.fixture(scope="module")
def large_model():
    with torch.device("meta"):
        return create_model("deeplabv3_resnet50", 21, output_stride=8)


def step_that_lacks_memory(monkeypatch, at: int, error: Exception) -> None:
    real = Trainer.__init__

    def init(self, *args, **options):
        real(self, *args, **options)
        update = self.update

        def fail(step, *batch):
            if step == at:
                raise error
            return update(step, *batch)

        fail.state, fail.first_bad, fail.optimizer = update.state, update.first_bad, update.optimizer
        fail.restore = update.restore
        self.update = fail

    monkeypatch.setattr(Trainer, "__init__", init)


def test_lack_of_memory_names_settings_and_fix_and_keeps_the_checkpoint(tmp_path, monkeypatch, gib):
    gib(4)
    step_that_lacks_memory(monkeypatch, 10, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(MemoryError) as caught:
        short_training(tmp_path, batch_size=4)
    text = str(caught.value)
    assert "out of memory in step 11: deeplabv3plus_mini, batch 4, 4 pictures at a time, crop 48 48, float32" in text
    assert "2.0 of 4.0 GiB free" in text
    assert "--accumulate 2 keeps the batch of 4" in text
    assert f"--start-from {tmp_path / 'last.safetensors'}" in text
    assert load_state(tmp_path / "resume.pt")["step"] == 9, "the last checkpoint stays"


def test_run_without_a_checkpoint_says_that_nothing_was_saved(tmp_path, monkeypatch, gib):
    gib(4)
    step_that_lacks_memory(monkeypatch, 0, RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(MemoryError, match="Nothing had been saved yet"):
        short_training(tmp_path)


def test_other_errors_pass_unchanged(tmp_path, monkeypatch):
    step_that_lacks_memory(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        short_training(tmp_path)


def from_onnx_runtime(text: str) -> Exception:
    """Its errors are Exceptions of its own module."""
    return type("RuntimeException", (Exception,), {"__module__": "onnxruntime.capi.onnxruntime_pybind11_state"})(text)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] err == 0. DefaultCPUAllocator: can't allocate memory"), True),
        (from_onnx_runtime("Failed to allocate memory for requested buffer of size 9"), True),
        (from_onnx_runtime("Non-zero status code returned while running Conv node"), False),
        (MemoryError(), True),
        (RuntimeError("gloo: connection closed by peer"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_lack_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_estimate_is_activations_in_the_precision_and_the_losses_copies(large_model):
    activations = cost(large_model, (513, 513)).activation_bytes
    weights, full = bytes_needed(large_model, large_config(), torch.float32)
    _, half = bytes_needed(large_model, large_config(), torch.bfloat16)
    logits = 21 * 513 * 513 * 4
    assert full - 3 * logits == activations
    assert half - 3 * logits == activations // 2
    parameters = sum(parameter.numel() for parameter in large_model.parameters())
    assert weights == 3 * 4 * parameters
    assert bytes_needed(large_model, large_config(optimizer="adamw"), torch.float32)[0] == 4 * 4 * parameters


@pytest.mark.parametrize("pictures", [2, 5, 8, 11])
def test_advised_accumulation_is_the_smallest_that_fits(large_model, gib, pictures):
    """Room for so many pictures, and a little."""
    weights, picture = bytes_needed(large_model, large_config(), torch.float32)
    gib((weights + (pictures + 0.1) * picture) / memory.USABLE / GIB)
    text = str(does_not_fit(large_config(), large_model, torch.float32, CUDA, step=1))
    assert f"so {pictures} fit at a time" in text
    accumulate = int(re.search(r"--accumulate (\d+) keeps the batch of 16", text)[1])
    assert 16 // accumulate <= pictures < 2 * (16 // accumulate)
    assert "--precision bfloat16" in text


def test_estimate_that_is_too_low_still_advises_less_than_what_failed(large_model, gib):
    gib(10_000)
    text = str(does_not_fit(large_config(), large_model, torch.bfloat16, CUDA, step=1))
    assert "so 8 fit at a time: --accumulate 2 keeps" in text
    assert "--precision" not in text, "it is in 16 bits already"


def test_where_the_estimate_says_that_two_fit_and_they_did_not_the_crop_becomes_smaller(large_model, gib):
    gib(10_000)
    text = str(does_not_fit(large_config(batch_size=2), large_model, torch.bfloat16, CUDA, step=1))
    assert "take --crop 353 353 with --accumulate 1" in text, "half of the pixels"


def test_where_not_even_two_pictures_fit_a_crop_is_computed_that_does(large_model, gib):
    """BatchNorm wants two; frozen it is content with one."""
    weights, picture = bytes_needed(large_model, large_config(), torch.float32)
    gib((weights + 1.2 * picture) / memory.USABLE / GIB)
    text = str(does_not_fit(large_config(), large_model, torch.float32, CUDA, step=1))
    height, width = map(int, re.search(r"take --crop (\d+) (\d+) with --accumulate 8", text).groups())
    assert height == width
    assert height % 16 == 1
    _, smaller = bytes_needed(large_model, large_config(crop=(height, width)), torch.float32)
    _, larger = bytes_needed(large_model, large_config(crop=(height + 32, width + 32)), torch.float32)
    assert 2 * smaller <= 1.2 * picture * 1.03 <= 2 * larger
    with torch.device("meta"):
        frozen = create_model("deeplabv3_resnet50", 21, output_stride=8)
    freeze_batch_norm(frozen)
    assert "--accumulate 16 keeps" in str(does_not_fit(large_config(), frozen, torch.float32, CUDA, step=1))


def test_where_no_crop_fits_a_smaller_model_is_advised(large_model, gib):
    gib(0.1)
    text = str(does_not_fit(large_config(), large_model, torch.float32, CUDA, step=1))
    assert "at no allowed crop: take a smaller model" in text


def test_each_process_counts_its_own_part(large_model, gib):
    gib(10_000)
    text = str(does_not_fit(large_config(), large_model, torch.float32, CUDA, step=1, processes=4))
    assert "4 pictures at a time" in text
    assert "--accumulate 2 keeps the batch of 16" in text


def test_model_that_cannot_be_traced_gets_advice_all_the_same(large_model, gib, monkeypatch):
    def fail(*args):
        raise TypeError("no")

    gib(1)
    monkeypatch.setattr(memory, "cost", fail)
    text = str(does_not_fit(large_config(accumulate=2), large_model, torch.bfloat16, CUDA, step=1))
    assert "--accumulate 4 keeps the batch" in text


def test_memory_of_a_gpu_leaves_out_what_other_programs_hold(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GIB)
    assert memory.memory_of(CUDA) == Memory(3 * GIB, 16 * GIB, 8 * GIB)
    here = memory.memory_of(torch.device("cpu"))
    assert 0 < here.free <= here.total == here.room


def test_real_lack_of_memory_on_the_cpu_is_recognized():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
