"""What the page "A DeepLab in your browser" loads, made while the book is built and kept in _build/live.

The runtime comes from the npm package onnxruntime-web, the networks from the weights that come with this package, the
pictures from `Scenes`. All of it is served by the book itself.
"""

import gzip
import hashlib
import json
from collections.abc import Callable
from importlib.metadata import files, version
from pathlib import Path
from typing import Any

import numpy as np
from fresh import digest
from npm_package import Package, Unavailable, fetch, read_members
from PIL import Image

import deeplab_lesson

# Another version: write it here, and what `npm view onnxruntime-web@VERSION dist.integrity` prints.
RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
)
# The smallest pair: WebAssembly alone, without the engines for GPUs. The script holds the glue of the other file.
SCRIPT, WASM = "dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm"
LICENSES = ("LICENSE", "ThirdPartyNotices.txt")  # the npm package has none; the Python package of the same project has

NETWORKS = {  # what a reader chooses, the best first
    "deeplabv3plus_mini": ("DeepLab v3+", "Output stride 16, ASPP, and a decoder that reads fine features"),
    "deeplabv1_mini": ("DeepLab v1", "Output stride 8 by atrous convolution, no decoder"),
    "fcn32s_mini": ("FCN-32s", "Output stride 32, no decoder: the starting point"),
}
SCENES = 24  # the first of the test split, as they come
THUMBNAIL = 48
STAMP_RADIUS, STAMP_SIZE = 64, 192  # of the shapes that a reader draws with, in pixels
GROUND = (2, 7, 128, 128, 1)  # the key of a ground's random stream


def prepare(folder: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """Make what is missing in `folder`; return what the page is told about it, as JSON values.

    Raises:
        Unavailable: the runtime cannot be had on this machine, or a package is not installed.
        ValueError: a hash that is not the pinned one; a network whose export answers something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = Path(deeplab_lesson.__file__).parents[1]
    inputs = digest(root, ("deeplab_lesson", "data")) if (root / "data").is_dir() else version("deeplab-lesson")
    key = hashlib.sha256(f"{inputs} {RUNTIME} {Path(__file__).read_text(encoding='utf-8')}".encode()).hexdigest()
    stamp = folder / "told.json"
    if stamp.is_file():
        kept = json.loads(stamp.read_text(encoding="utf-8"))
        if kept["key"] == key and all((folder / name).is_file() for name in kept["files"]):
            return dict(kept["told"])
    runtime = make_runtime(folder, folder.parent / "npm")  # first: without it the rest would be made in vain
    say("live page: exporting the networks")
    told = {"runtime": runtime, "networks": make_networks(folder), **make_pictures(folder)}
    names = [runtime["script"], runtime["wasm"], *LICENSES, *(each["file"] for each in told["networks"])]
    names += ["thumbnails.jpg", "ground.png", *picture_names(SCENES), *(f"stamp_{name}.png" for name in told["stamps"])]
    stamp.write_text(json.dumps({"key": key, "files": names, "told": told}), encoding="utf-8")
    return told


def published(folder: Path) -> list[Path]:
    """The files of `folder` that the page loads, and the licenses."""
    return [folder / name for name in json.loads((folder / "told.json").read_text(encoding="utf-8"))["files"]]


def make_runtime(folder: Path, downloads: Path) -> dict[str, Any]:
    """Two files of ONNX Runtime Web. The large one is compressed here, because plain servers send files as they are."""
    members = read_members(fetch(RUNTIME, downloads), (SCRIPT, WASM))
    script, wasm = f"onnxruntime-web-{RUNTIME.version}.js", f"onnxruntime-web-{RUNTIME.version}.wasm.gz.bin"
    (folder / script).write_bytes(members[SCRIPT])  # .js: not every server knows what .mjs is
    packed = gzip.compress(members[WASM], 9, mtime=0)
    (folder / wasm).write_bytes(packed)
    for file in files("onnxruntime") or ():
        if file.name in LICENSES and len(file.parts) == 2:
            (folder / file.name).write_bytes(file.read_binary())
    return {"script": script, "wasm": wasm, "bytes": len(members[SCRIPT]) + len(packed), "version": RUNTIME.version}


def make_networks(folder: Path) -> list[dict[str, Any]]:
    """An ONNX file of each network, equal to PyTorch's to 1e-4 of the largest logit."""
    from deeplab_lesson.data import bundled
    from deeplab_lesson.inference.onnx_file import export_onnx, missing_packages
    from deeplab_lesson.notebook.running_table import measured
    from deeplab_lesson.training import load_checkpoint

    missing = " ".join(missing_packages())
    if missing:
        raise Unavailable(f"ONNX files need packages that are not installed: pip install {missing}, then build again")
    told = []
    for name, (title, note) in NETWORKS.items():
        model, metadata = load_checkpoint(bundled(f"weights/{name}.safetensors"))
        file = folder / f"{name}.onnx"
        export_onnx(model, file, {key: metadata[key] for key in ("classes", "palette")})
        told.append(
            {
                "name": name,
                "title": title,
                "note": note,
                "file": file.name,
                "bytes": file.stat().st_size,
                "mean_iou": round(100 * measured(name)["mean_iou"], 1),
            }
        )
    return told


def make_pictures(folder: Path) -> dict[str, Any]:
    """Scenes with their labels, their thumbnails in one file, a ground to draw on, and the shapes to draw with."""
    from deeplab_lesson.data import VOC_PALETTE, Scenes
    from deeplab_lesson.data.palette import VOID
    from deeplab_lesson.data.scene_light import paint_ground, shading
    from deeplab_lesson.data.scene_random import Stream
    from deeplab_lesson.data.scenes import CLASS_ID, HOSTS
    from deeplab_lesson.data.shapes import MASKS, own_frame
    from deeplab_lesson.data.transforms import IMAGENET_MEAN, IMAGENET_STD

    scenes = Scenes("test")
    sheet = Image.new("RGB", (THUMBNAIL * SCENES, THUMBNAIL))
    for index, (picture, truth) in enumerate(zip(*[iter(picture_names(SCENES))] * 2, strict=True)):
        image, label = scenes.read(index)
        Image.fromarray(image).save(folder / picture, optimize=True)
        colored = Image.fromarray(label)
        colored.putpalette(VOC_PALETTE.tobytes())
        colored.save(folder / truth, optimize=True)
        sheet.paste(Image.fromarray(image).resize((THUMBNAIL, THUMBNAIL)), (THUMBNAIL * index, 0))
    sheet.save(folder / "thumbnails.jpg", quality=80)

    stream = Stream(*GROUND)
    lit = paint_ground(*scenes.size, stream).astype(np.int32) * shading(*scenes.size, stream)[:, :, None] >> 10
    Image.fromarray(lit.clip(0, 255).astype(np.uint8)).save(folder / "ground.png", optimize=True)
    stamps = {}
    middle = ((STAMP_SIZE - 1) / 2, (STAMP_SIZE - 1) / 2)
    for name in ("disk", "ring", "square", "frame", "triangle", "star", "crescent"):
        u, v = own_frame(STAMP_SIZE, STAMP_SIZE, middle, (1.0, 0.0))
        mask = MASKS[name](u, v, float(STAMP_RADIUS), 0.5)
        alpha = np.zeros((STAMP_SIZE, STAMP_SIZE, 4), dtype=np.uint8)
        alpha[mask] = 255
        Image.fromarray(alpha).save(folder / f"stamp_{name}.png", optimize=True)
        stamps[name] = CLASS_ID[name]
    return {
        "classes": list(Scenes.classes),
        "palette": VOC_PALETTE[: len(Scenes.classes)].tolist(),
        "void": {"id": VOID, "color": VOC_PALETTE[VOID].tolist()},
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
        "size": list(scenes.size),
        "scenes": [scenes.name(index) for index in range(SCENES)],
        "thumbnail": THUMBNAIL,
        "stamps": stamps,
        "stamp_radius": STAMP_RADIUS,
        "wire": CLASS_ID["wire"],
        "blob": {"ground": CLASS_ID["pebble"], "object": CLASS_ID["seed"], "hosts": sorted(HOSTS)},
    }


def picture_names(count: int) -> list[str]:
    """For each scene its picture's and its label's file."""
    return [f"test_{index:05d}{ending}" for index in range(count) for ending in (".png", "_label.png")]
