"""deeplab-lesson benchmark: one row for each setting, with a reason in the place of numbers where there are none."""

import functools
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import Done
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from deeplab_lesson import cli, create_model
from deeplab_lesson.cost import cost
from deeplab_lesson.inference import speed
from deeplab_lesson.inference.engines import engine
from deeplab_lesson.inference.speed import WARM_UP, Speed, largest_batch, measure_speed
from deeplab_lesson.models.fcn import FCN

NAME, SMALL = "fcn32s_mini", ("--size", 33, 40, "--device", "cpu", "--repeats", 3)


@pytest.fixture
def command(command: Callable[..., Done]) -> Callable[..., Done]:
    """Run the benchmark in this process, in an empty folder."""
    return functools.partial(command, "benchmark")


@pytest.fixture
def memory_for(monkeypatch: pytest.MonkeyPatch):
    """Let FCN's forward pass run out of memory above a batch; gives the batches that were shown."""
    forward = FCN.forward_heads

    def limit(most: int, error: Exception) -> list[int]:
        shown: list[int] = []

        def limited(self: FCN, images: Tensor) -> dict[str, Tensor]:
            if not images.is_meta and type(images) is Tensor:
                shown.append(len(images))
                if len(images) > most:
                    raise error
            return forward(self, images)

        monkeypatch.setattr(FCN, "forward_heads", limited)
        return shown

    return limit


# ---- rows --------------------------------------------------------------------------------------------------


def test_each_setting_gets_a_row_and_the_file_holds_the_same(command, tmp_path: Path) -> None:
    words = (NAME, "fcn32s_m*", "--batch", 1, 2, "--precision", "float32", "bfloat16", "--json", "speed.json")
    done = command(*words, *SMALL)
    assert (done.code, done.err) == (0, "")
    machine, head, *rows = done.out.splitlines()
    assert machine.startswith("device cpu (")
    assert f"threads {torch.get_num_threads()}" in machine
    assert head.split()[:4] == ["model", "size", "batch", "precision"]
    record = json.loads((tmp_path / "speed.json").read_text())
    settings = [(row["model"], row["batch"], row["precision"], row["mode"]) for row in record["rows"]]
    assert settings == list(itertools.product((NAME,), (1, 2), ("float32", "bfloat16"), ("eager",)))
    assert len(rows) == len(settings)
    assert (record["torch"], record["repeats"], record["threads"]) == (torch.__version__, 3, torch.get_num_threads())
    for line, row in zip(rows, record["rows"], strict=True):
        counted = cost(create_model(row["model"]), (33, 40))
        assert (row["parameters"], row["multiply_adds"]) == (counted.parameters, counted.multiply_adds)
        assert row["seconds_from"] <= row["seconds"] <= row["seconds_to"]
        assert row["pictures_per_second"] == pytest.approx(row["batch"] / row["seconds"])
        assert line.split()[:2] == [row["model"], "33x40"]
        assert f"{row['parameters']:,}" in line
        assert f"{1000 * row['seconds']:.1f}" in line


def test_model_is_measured_in_eval_mode_without_gradients_in_channels_last_order(command, monkeypatch) -> None:
    seen = []
    forward = FCN.forward_heads

    def watching(self: FCN, images: Tensor) -> dict[str, Tensor]:
        if not images.is_meta and type(images) is Tensor:
            order = images.is_contiguous(memory_format=torch.channels_last)
            kernels = self.score_pool4 is None and self.backbone.stem[0].weight
            seen.append((self.training, torch.is_inference_mode_enabled(), order, kernels is not None))
        return forward(self, images)

    monkeypatch.setattr(FCN, "forward_heads", watching)
    assert command(NAME, *SMALL, "--batch", 2).code == 0
    assert seen == [(False, True, True, True)] * (WARM_UP + 3)


# ---- what is not there -------------------------------------------------------------------------------------


def test_compiler_that_does_not_work_is_said_in_its_row_and_the_others_are_measured(command, monkeypatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise RuntimeError("No working C++ compiler found\nlong trace")

    monkeypatch.setattr(torch, "compile", refuse)
    done = command(NAME, *SMALL, "--modes", "compiled", "eager")
    assert done.code == 0
    assert "torch.compile does not work here: RuntimeError: No working C++ compiler found" in done.rows[0]
    assert "long trace" not in done.out
    assert float(done.rows[1].split()[-2]) > 0


@pytest.mark.parametrize("missing", ["onnxruntime", "onnxscript"])
def test_missing_onnx_runtime_is_said_in_its_row(command, monkeypatch, tmp_path: Path, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    done = command(NAME, *SMALL, "--modes", "onnx", "eager", "--json", "speed.json")
    assert done.code == 0
    assert missing in done.rows[0]
    assert "pip install onnx onnxruntime onnxscript" in done.rows[0]
    missed, measured = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert "seconds" not in missed
    assert missed["note"] in done.rows[0]
    assert measured["seconds"] > 0


def test_onnx_runtime_is_measured_in_float32_alone(command) -> None:
    done = command(NAME, *SMALL, "--modes", "onnx", "--precision", "bfloat16")
    assert "float32 alone" in done.rows[0]


def test_model_that_cannot_be_exported_is_said_in_its_row(command, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")

    def refuse(*args: object, **options: object) -> None:
        raise RuntimeError("aten.max_unpool2d has no counterpart")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    done = command(NAME, *SMALL, "--modes", "onnx")
    assert "the model cannot be exported: RuntimeError: aten.max_unpool2d" in done.rows[0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_onnx_engine_computes_what_the_model_does() -> None:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(needed)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, kernel_size=3, stride=2), nn.ReLU()).eval().requires_grad_(False)
    images = torch.randn(2, 3, 33, 40).to(memory_format=torch.channels_last)
    with engine("onnx", model, images, torch.float32) as call:
        (features,) = call()
    torch.testing.assert_close(torch.from_numpy(features), model(images), atol=1e-5, rtol=1e-4)


@pytest.mark.slow  # C++ for every fused kernel
def test_compiled_engine_computes_what_the_model_does() -> None:
    torch.manual_seed(0)
    model = create_model(NAME, 5).eval().requires_grad_(False)
    images = torch.randn(2, 3, 33, 40)
    with torch.inference_mode(), engine("compiled", model, images, torch.float32) as call:
        torch.testing.assert_close(call(), model(images), atol=1e-5, rtol=1e-4)
    torch._dynamo.reset()


# ---- out of memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_batch_too_large_says_which_one_fits_and_what_was_tried(command, memory_for, error, tmp_path: Path) -> None:
    shown = memory_for(5, error)
    done = command(NAME, *SMALL, "--batch", 32, 2, "--json", "speed.json")
    assert done.code == 0
    said = "out of memory at batch 32; the largest that fits is 5 (tried 32, 16, 8, 4, 6, 5)"
    assert said in done.rows[0]
    assert float(done.rows[1].split()[-2]) > 0, "the next row is measured"
    row = json.loads((tmp_path / "speed.json").read_text())["rows"][0]
    assert (row["largest_batch"], row["tried"]) == (5, [32, 16, 8, 4, 6, 5])
    assert [batch for batch, _ in itertools.groupby(shown)] == [32, 16, 8, 4, 6, 5, 2]


def test_picture_that_does_not_fit_alone_is_said(command, memory_for) -> None:
    memory_for(0, torch.OutOfMemoryError("CUDA out of memory"))
    done = command(NAME, *SMALL, "--batch", 4)
    assert "out of memory at batch 4; not one picture of 33x40 fits: take a smaller one (tried 4, 2, 1)" in done.rows[0]


def test_other_faults_are_not_taken_for_lack_of_memory(command, memory_for) -> None:
    memory_for(0, RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        command(NAME, *SMALL)


@given(st.integers(1, 2000), st.data())
def test_largest_batch_is_found_in_as_many_tries_as_the_number_has_bits(failed: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(0, failed - 1))
    largest, tried = largest_batch(lambda batch: batch <= limit, failed)
    assert largest == limit
    assert len(tried) <= 1 + math.ceil(math.log2(failed))
    assert tried[0] == failed


# ---- the measurement ---------------------------------------------------------------------------------------


def test_first_calls_do_not_count_and_the_median_is_that_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    durations = iter([100.0, 50.0, 3.0, 1.0, 8.0])

    def call() -> None:
        now[0] += next(durations)

    measured = measure_speed(call, torch.device("cpu"), repeats=3)
    assert measured.seconds == (1.0, 3.0, 8.0)
    assert measured.median == 3.0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux lets a process set its mark back")
@pytest.mark.parametrize("mebibytes", [64, 160])  # below 32 the C library may keep what is freed
def test_peak_memory_is_what_a_call_takes_for_a_while(mebibytes: int) -> None:
    torch.ones(128 * 2**18).sum()  # more, and before: it does not count
    kept = torch.ones(32 * 2**18)  # there before: nor does this
    measured = measure_speed(lambda: torch.ones(mebibytes * 2**18).sum(), torch.device("cpu"), repeats=2)
    assert measured.peak_bytes == pytest.approx(mebibytes * 2**20, abs=6 * 2**20)
    assert kept.sum() > 0


def test_memory_that_cannot_be_known_is_a_dash(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_resident", lambda name: None)
    assert measure_speed(lambda: None, torch.device("cpu"), 1) == Speed((pytest.approx(0, abs=1),), None)
    assert command(NAME, *SMALL).rows[0].split()[-1] == "-"


# ---- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("deeplabv4",), "no model matches 'deeplabv4': there are attention_to_scale_mini"),
        ((NAME, "--size", 32, 64), "--size 32 64: allowed are sides from 33"),
        ((NAME, "--batch", 4, 0), "--batch 4 0: allowed are one or more whole numbers from 1"),
        ((NAME, "--repeats", 0), "--repeats 0: allowed are whole numbers from 1"),
        ((NAME, "--device", "tpu"), "device='tpu' is not there"),
        ((NAME, "--device", "cpu", "--precision", "float16"), "needs a GPU: take float32 or bfloat16"),
        ((NAME, "--json", "weights.safetensors"), "ends in .json"),
    ],
)
def test_benchmark_explains_what_is_wrong(command, words: tuple[object, ...], part: str) -> None:
    done = command(*words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert part in done.err


def test_help_lists_the_command_and_its_options(command, capsys: pytest.CaptureFixture[str]) -> None:
    done = command("--help")
    assert done.code == 0
    for option in ("--size", "--batch", "--precision", "--modes", "--repeats", "--device", "--json"):
        assert option in done.out
    cli.main([])
    assert "  benchmark " in capsys.readouterr().out
