"""Make tests/data/crf_golden.npz with pydensecrf: `python -m benchmarks.crf_golden`.

The file lets the tests compare our fully connected CRF with pydensecrf where pydensecrf is not installed. Each case
holds a small picture, logits, and what pydensecrf 1.1 (`pip install pydensecrf2`) makes of them. Logits are stored as
whole eighths on every eighth pixel and drawn out by whole numbers, so that every machine sees the same float32.
"""

import io
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import ROOT
from deeplab_lesson.crf import PRESETS
from deeplab_lesson.data.files import write_atomically

GOLDEN = ROOT / "tests" / "data" / "crf_golden.npz"
STEP = 8  # pixels between stored logits, as in DeepLab v1 and v2
EVERY = 3  # pixels between stored marginals
FINENESS = 2.0**20  # marginals are stored as multiples of 2^-20, 1e-6: tiny ones become 0, which packs well

Picture = NDArray[np.uint8]
Floats = NDArray[np.float32]


class Case(NamedTuple):
    """Inputs of one run, and how it is made."""

    name: str
    """The picture's, and what distinguishes the run."""
    image: Picture
    """[H, W, 3]"""
    coarse: NDArray[np.int8]
    """Logits in eighths, [C, 1 + ceil((H - 1) / 8), 1 + ceil((W - 1) / 8)]."""
    preset: str
    normalization: str = "symmetric"
    compatibility: Floats | None = None

    @property
    def logits(self) -> Floats:
        """[C, H, W]."""
        return draw_out(self.coarse, self.image.shape[0], self.image.shape[1])

    @property
    def parameters(self) -> dict[str, Any]:
        """What `mean_field` takes, but for the compatibility."""
        return {**PRESETS[self.preset], "normalization": self.normalization}


def main(path: Path = GOLDEN) -> None:
    """Run pydensecrf on every case and write the file."""
    arrays: dict[str, Any] = {"made_with": np.array(f"pydensecrf2 {version('pydensecrf2')}")}
    for case in cases():
        marginals = run_pydensecrf(case.logits, case.image, case.parameters, case.compatibility)
        kept = np.round(marginals[:, ::EVERY, ::EVERY] * FINENESS) / FINENESS
        arrays[f"picture/{case.name.split()[0]}"] = case.image  # once for all of its runs
        values = {
            "coarse": case.coarse,
            "preset": np.array(case.preset),
            "normalization": np.array(case.normalization),
            "labels": marginals.argmax(0).astype(np.uint8),
            "marginals": kept.astype(np.float32),
            "means": marginals.mean((1, 2), dtype=np.float64),
        }
        if case.compatibility is not None:
            values["compatibility"] = case.compatibility
        arrays |= {f"{case.name}/{key}": value for key, value in values.items()}
    write_atomically(path, packed(arrays))
    print(f"written: {path}, {path.stat().st_size // 1000} kB", file=sys.stderr)


def packed(arrays: Mapping[str, Any]) -> bytes:
    """Return the bytes of a compressed .npz."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def read_cases(path: Path = GOLDEN) -> Iterator[tuple[Case, dict[str, NDArray[Any]]]]:
    """Yield each case with pydensecrf's labels [H, W], marginals [C, H / 3, W / 3] and mean marginals [C]."""
    with np.load(path) as file:
        for name in [key.removesuffix("/coarse") for key in file.files if key.endswith("/coarse")]:
            values = {key.split("/")[1]: file[key] for key in file.files if key.startswith(f"{name}/")}
            image, texts = file[f"picture/{name.split()[0]}"], (str(values["preset"]), str(values["normalization"]))
            case = Case(name, image, values["coarse"], *texts, values.get("compatibility"))
            yield case, {key: values[key] for key in ("labels", "marginals", "means")}


def run_pydensecrf(
    logits: Floats, image: Picture, parameters: Mapping[str, Any], compatibility: Floats | None = None
) -> Floats:
    """Return pydensecrf's marginals [C, H, W].

    Args:
        logits: [C, H, W].
        image: [H, W, 3].
        parameters: a preset, with or without a normalization.
        compatibility: symmetric penalties [C, C].
    """
    import pydensecrf.densecrf as dcrf

    classes, height, width = logits.shape
    norm = {"symmetric": dcrf.NORMALIZE_SYMMETRIC, "after": dcrf.NORMALIZE_AFTER}[
        parameters.get("normalization", "symmetric")
    ]
    field = dcrf.DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(-logits.reshape(classes, -1), dtype=np.float32))

    def penalties(weight: float) -> Any:
        return weight if compatibility is None else np.ascontiguousarray(weight * compatibility, dtype=np.float32)

    field.addPairwiseGaussian(
        sxy=parameters["smoothness_sigma_xy"], compat=penalties(parameters["smoothness_weight"]), normalization=norm
    )
    field.addPairwiseBilateral(
        sxy=parameters["appearance_sigma_xy"],
        srgb=parameters["appearance_sigma_rgb"],
        rgbim=np.ascontiguousarray(image),
        compat=penalties(parameters["appearance_weight"]),
        normalization=norm,
    )
    marginals = np.array(field.inference(parameters["iterations"]), dtype=np.float32)
    return marginals.reshape(classes, height, width)


def draw_out(coarse: NDArray[np.int8], height: int, width: int) -> Floats:
    """Draw coarse logits out to [C, height, width] by linear interpolation, without any rounding."""
    values = coarse.astype(np.int64)
    for axis, length in ((1, height), (2, width)):
        place, part = np.divmod(np.arange(length), STEP)
        part = part.reshape([-1 if number == axis else 1 for number in range(3)])
        values = np.take(values, place, axis) * (STEP - part) + np.take(values, place + (part > 0).ravel(), axis) * part
    return (values / (8 * STEP * STEP)).astype(np.float32)  # of at most 14 bits: exact


def coarse_logits(labels: NDArray[Any], classes: int, seed: int) -> NDArray[np.int8]:
    """Return noisy logits for labels [H, W], at every eighth pixel, in eighths."""
    rows, columns = (np.minimum(np.arange(0, size + STEP - 1, STEP), size - 1) for size in labels.shape)
    one_hot = labels[np.ix_(rows, columns)] == np.arange(classes)[:, None, None]
    noise = np.random.default_rng(seed).normal(size=one_hot.shape)
    return np.clip(np.round(8 * (3 * one_hot + 1.2 * noise)), -127, 127).astype(np.int8)


def bands(image: Picture, classes: int) -> NDArray[Any]:
    """Label a picture by brightness, in bands of equally many pixels: [H, W]."""
    gray = image.mean(-1)
    return np.searchsorted(np.quantile(gray, np.arange(1, classes) / classes), gray)


def synthetic_picture(height: int, width: int, seed: int) -> tuple[Picture, NDArray[Any]]:
    """Draw a ground, a disk, a bar and a frame in four colors with noise: picture [H, W, 3] and labels [H, W]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), dtype=np.int64)
    labels[np.hypot(y - 0.45 * height, x - 0.35 * width) < 0.3 * height] = 1
    labels[np.abs(y - 0.6 * x - 0.1 * height) < 0.06 * height] = 2
    labels[(y > 0.7 * height) & (x > 0.55 * width)] = 3
    colors = np.array([[90, 100, 80], [200, 60, 60], [60, 70, 190], [220, 200, 90]])
    noisy = colors[labels] + rng.normal(0, 6, (height, width, 3))
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8), labels


def cases() -> Iterator[Case]:
    """Yield the inputs of every run. scikit-image's pictures are in the public domain or CC0."""
    from skimage import data

    pictures = {
        "chelsea": shrink(data.chelsea(), 81, 121),
        "coffee": shrink(data.coffee(), 66, 97),
        "astronaut": shrink(data.astronaut()[:384], 72, 96),
        "synthetic": synthetic_picture(97, 121, seed=0)[0],
    }
    runs = [
        ("chelsea", "krahenbuhl2011", 4, "symmetric", False),
        ("chelsea", "deeplab_v2_resnet101", 5, "symmetric", False),
        ("coffee", "deeplab_v1", 21, "symmetric", False),
        ("coffee", "krahenbuhl2011", 6, "after", False),
        ("astronaut", "deeplab_v2_resnet101", 21, "symmetric", False),
        ("astronaut", "deeplab_v1", 8, "after", False),
        ("synthetic", "deeplab_v1", 5, "symmetric", True),
        ("synthetic", "krahenbuhl2011", 4, "symmetric", True),
    ]
    for seed, (picture, preset, classes, normalization, explicit) in enumerate(runs):
        image = pictures[picture]
        coarse = coarse_logits(bands(image, classes), classes, seed)
        name = " ".join([picture, preset, str(classes), normalization, *(["matrix"] if explicit else [])])
        yield Case(name, image, coarse, preset, normalization, random_penalties(classes, seed) if explicit else None)


def random_penalties(classes: int, seed: int) -> Floats:
    """Draw symmetric penalties [C, C] in quarters: 0 for equal labels, 0.5 to 1.5 for others."""
    half = np.triu(np.random.default_rng(seed).integers(2, 7, (classes, classes)), 1) / 4
    return (half + half.T).astype(np.float32)


def shrink(image: Picture, height: int, width: int) -> Picture:
    """Resize a picture, to uint8."""
    from skimage.transform import resize

    small = resize(image, (height, width), anti_aliasing=True, preserve_range=True)
    return np.round(small).astype(np.uint8)


if __name__ == "__main__":
    main()
