"""The measurements of training step, loader and scaling: that they measure what they say, at toy sizes."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import loader as loader_benchmark
from benchmarks import scaling, train_step
from benchmarks.loader import CROP, ReferenceTransform, make_files, our_loader
from benchmarks.scaling import BUCKET, Device, ring_seconds
from deeplab_lesson import create_model
from deeplab_lesson.cost import count_multiply_adds
from deeplab_lesson.data import VOCFolder
from deeplab_lesson.training import TrainConfig


@pytest.fixture
def small(monkeypatch):
    """The mini model in place of ResNet-50, and a reference that does nothing."""
    monkeypatch.setattr(train_step, "our_model", lambda stride: create_model("deeplabv3_mini", 21, aux_head=True))
    monkeypatch.setattr(train_step, "reference_step", lambda sizes, device, amp: lambda: None)
    monkeypatch.setattr(train_step, "step_flops", lambda stride, size: 1000)


# the training step ------------------------------------------------------------------------------------------------


def test_every_rung_changes_a_setting_that_exists_and_the_last_has_all_of_them():
    settings = dict(train_step.START)
    for rung in train_step.LADDER:
        assert all(settings[name] != value for name, value in rung.changes.items()), rung.name
        settings |= rung.changes
    fields = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    assert settings.keys() <= fields.keys()
    switches = {"tf32", "autotune", "channels_last", "fused_optimizer", "uint8_upload", "compile"}
    assert all(settings[name] is True for name in switches)
    assert settings["precision"] == "auto"


def test_ladder_is_measured_and_written_after_every_rung(small, tmp_path, monkeypatch, capsys):
    written = []
    real = train_step.write_result
    monkeypatch.setattr(train_step, "write_result", lambda *args: (written.append(len(args[3]["rows"])), real(*args)))
    train_step.main(preset="cpu", size=48, steps=1, turns=2, results=tmp_path)
    record = json.loads((tmp_path / "train_step_cpu.json").read_text())
    names = [row["name"] for row in record["rows"]]
    assert names == ["float32, eager", "+ channels-last", "+ pictures sent as bytes", "all of it, output stride 16",
                     "torchvision, without --amp"]  # fmt: skip
    assert written == [1, 2, 3, 4, 5]
    assert record["command"] == "python -m benchmarks.train_step --preset cpu --size 48 --steps 1 --turns 2"
    for row in record["rows"]:
        assert 0 < row["slowest"] <= row["images_per_second"] <= row["fastest"]
        assert row["share_of_peak"] == pytest.approx(row["images_per_second"] * 1000 / record["matmul_peak_flops"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


def test_operations_of_a_step_are_six_for_each_multiply_add():
    """Two forward, four backward; less the first convolution's, more the auxiliary head's."""
    counted = train_step.step_flops(8, 65)
    with torch.device("meta"):
        plain = create_model("deeplabv3_resnet50", 21, output_stride=8, multi_grid=None, head_conv=True)
    forward = count_multiply_adds(plain, (65, 65))
    assert 6 * forward < counted < 6 * forward * 1.15


def test_turns_are_paired_and_alternate(monkeypatch):
    order = []
    for first in (0, 1):
        train_step.in_turn(lambda: order.append("o"), lambda: order.append("t"), 2, torch.device("cpu"), first=first)
    assert "".join(order) == "ttoo" + "oott"


# the loader -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return make_files(tmp_path_factory.mktemp("voc"), 3)


def test_files_are_of_vocs_size_and_layout(files):
    image, label = VOCFolder(files).read(0)
    assert image.shape == (375, 500, 3)
    assert label.shape == (375, 500)
    assert (files / "JPEGImages" / "0000.jpg").stat().st_size > 50_000


def test_reference_gives_normalized_crops_with_void_beyond_the_picture(files):
    transform = ReferenceTransform()
    picture, label = VOCFolder(files).pairs[0]
    sizes = set()
    for _ in range(12):
        image, ids = transform(Image.open(picture).convert("RGB"), Image.open(label))
        assert image.shape == (3, CROP, CROP)
        assert (image.dtype, ids.dtype, tuple(ids.shape)) == (torch.float32, torch.int64, (CROP, CROP))
        assert -3 < image.min() < image.max() < 3
        sizes.add(int((ids == 255).sum()))
    assert len(sizes) > 3, "zooms differ, and with them what lies beyond"


def test_both_zoom_over_the_same_range(files):
    transform = our_loader(VOCFolder(files), 2, 0, False).dataset.transform
    shorter = min(loader_benchmark.SIZE)
    assert [round(shorter * scale) for scale in transform.scale] == [260, 1040]
    assert transform.crop == (CROP, CROP)


def test_loader_benchmark_writes_its_rows(tmp_path):
    loader_benchmark.main(workers=(0,), pictures=3, batches=1, batch=2, turns=1, results=tmp_path)
    rows = json.loads((tmp_path / "loader.json").read_text())["rows"]
    assert [row["data"] for row in rows] == ["VOC files", "VOC, cached", "scenes 480x480"]
    assert rows[0]["ratio"] == pytest.approx(rows[0]["ours"] / rows[0]["theirs"])
    assert "theirs" not in rows[2]


# beyond one machine -----------------------------------------------------------------------------------------------


def test_ring_sends_what_counting_its_messages_gives():
    """2 (n - 1) rounds, in each of which every device sends one n-th."""
    for n in range(1, 9):
        assert ring_seconds(12e9, n, 3e9) == pytest.approx(2 * (n - 1) * (12e9 / n) / 3e9)


def test_ring_all_reduce_by_hand_sends_so_many_numbers_and_gives_the_sum():
    """The algorithm itself, on arrays."""
    n = 5
    chunks = np.random.default_rng(0).normal(size=(n, n, 7))  # device, chunk, numbers
    total, sent = chunks.sum(axis=0), 0
    for add in (True, False):
        for turn in range(n - 1):
            moving = [(d, (d - turn + (not add)) % n) for d in range(n)]
            messages = [chunks[d, c].copy() for d, c in moving]
            for (d, c), message in zip(moving, messages, strict=True):
                target = chunks[(d + 1) % n]
                target[c] = target[c] + message if add else message
            sent += 7  # by each device
    np.testing.assert_allclose(chunks, np.broadcast_to(total, chunks.shape))
    assert sent == ring_seconds(7 * n, n, 1.0)


def test_step_is_at_best_one_devices_and_at_worst_the_sum():
    device = Device("x", step_seconds=0.3, batch=16, gradient_bytes=160 * 10**6)
    for n in (2, 8, 64):
        for bandwidth in (1e8, 1e9, 1e10):
            whole = ring_seconds(device.gradient_bytes, n, bandwidth)
            with_overlap = scaling.step_seconds(device, n, bandwidth)
            assert scaling.step_seconds(device, n, bandwidth, overlap=False) == pytest.approx(0.3 + whole)
            assert 0.3 < with_overlap < 0.3 + whole
    assert scaling.step_seconds(device, 1, 1.0) == 0.3
    enough = scaling.hiding_bandwidth(device)
    last = ring_seconds(BUCKET, 10**6, enough)
    assert scaling.step_seconds(device, 10**6, enough) == pytest.approx(0.3 + last)
    assert scaling.step_seconds(device, 10**6, enough / 4) > 0.3 + 4 * last


def test_fastest_rung_of_each_stride_is_taken_and_the_reference_left_out(tmp_path):
    rows = [
        {"name": "a", "output_stride": 8, "images_per_second": 10.0},
        {"name": "b", "output_stride": 8, "images_per_second": 20.0},
        {"name": "c", "output_stride": 16, "images_per_second": 40.0},
        {"name": "torchvision, --amp", "output_stride": 8, "images_per_second": 99.0},
    ]
    record = {"rows": rows, "batch": 4, "size": 65, "device": "D", "threads": 1, "date": "today", "commit": "abc"}
    (tmp_path / "train_step.json").write_text(json.dumps(record))
    found = list(scaling.measured_devices(tmp_path))
    assert [device.step_seconds for device in found] == [4 / 20, 4 / 40]
    with torch.device("meta"):
        parameters = sum(p.numel() for p in train_step.our_model(8).parameters())
    assert found[0].gradient_bytes == 4 * parameters
    text = scaling.tables(tmp_path)
    assert "No GPU has been measured" not in text
    assert "| 1 Gbit/s | 20 (100 %) |" in text


def test_page_on_scaling_holds_the_tables_of_what_is_measured():
    page = scaling.DOCUMENT.read_text(encoding="utf-8")
    inside = page[page.index(scaling.BEGIN) + len(scaling.BEGIN) : page.index(scaling.END)].strip()
    assert inside == scaling.tables(scaling.ROOT / "book" / "results"), "python -m benchmarks.scaling --write"


def test_write_replaces_the_tables_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{scaling.BEGIN}\nold\n{scaling.END}\nafter\n")
    scaling.main(write=True, results=tmp_path, document=page)
    text = page.read_text()
    assert re.fullmatch(rf"before\n{scaling.BEGIN}\nNo GPU .*\n{scaling.END}\nafter\n", text)
