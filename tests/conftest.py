"""Small data and a small checkpoint that several tests read. They are made once: who changes them takes a copy."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Done
from PIL import Image

from deeplab_lesson import cli, create_model
from deeplab_lesson.data import Scenes, export_voc
from deeplab_lesson.data.files import write_label
from deeplab_lesson.training.checkpoint import save_checkpoint

SIZE = (48, 64)  # height and width differ, so that swapping them is noticed


def small_scenes(split: str) -> Scenes:
    return Scenes(split, SIZE, length=4 if split == "train" else 2)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For what must be the same bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPLAB_STATIC", "1")  # pytest's notebook plugin looks like a notebook: no progress bar

    def run(*words: object) -> Done:
        capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:  # the option parser ends by itself
            code = stop.code
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def voc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four train and two val scenes in VOC's layout."""
    folder = tmp_path_factory.mktemp("data") / "voc"
    export_voc(folder, {split: small_scenes(split) for split in ("train", "val")})
    return folder


@pytest.fixture(scope="session")
def mask_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scenes as folders of pictures and masks."""
    folder = tmp_path_factory.mktemp("data") / "masks"
    for split in ("train", "val"):
        scenes = small_scenes(split)
        (folder / split / "images").mkdir(parents=True)
        for index in range(len(scenes)):
            image, label = scenes.read(index)
            Image.fromarray(image).save(folder / split / "images" / f"{scenes.name(index)}.png")
            write_label(folder / split / "masks" / f"{scenes.name(index)}.png", label, scenes.palette)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in Scenes.classes))
    return folder


@pytest.fixture
def voc_copy(voc_folder: Path, tmp_path: Path) -> Path:
    """A VOC folder that a test may damage."""
    return shutil.copytree(voc_folder, tmp_path / "voc")


@pytest.fixture
def mask_copy(mask_folder: Path, tmp_path: Path) -> Path:
    """A folder of pictures and masks that a test may damage."""
    return shutil.copytree(mask_folder, tmp_path / "masks")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini v3+ for the scenes' classes: untrained, but with statistics of its own and many classes in its answers."""
    torch.manual_seed(0)
    model = create_model("deeplabv3plus_mini", len(Scenes.classes))
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(4, 3, *SIZE))
        logits = model.eval()(torch.randn(4, 3, *SIZE))
        model.classifier.bias -= logits.mean(dim=(0, 2, 3))  # no class is the answer everywhere
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    palette = Scenes.palette[: len(Scenes.classes)].tolist()
    save_checkpoint(path, model, {"classes": list(Scenes.classes), "palette": palette, "step": 7})
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture file of noise, 50 pixels high and 60 wide."""
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(path)
    return path
