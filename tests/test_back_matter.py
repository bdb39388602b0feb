"""The pages behind the chapters: what they say is so, what they link is there, and nothing is left out of them."""

import ast
import importlib
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from deeplab_lesson import cli, create_model
from deeplab_lesson.crf import mean_field
from deeplab_lesson.data import VOC_CLASSES, ImageMaskFolder, Scenes, bundled
from deeplab_lesson.inference import predict
from deeplab_lesson.interop import load_torchvision_weights
from deeplab_lesson.layers import resize_labels
from deeplab_lesson.losses import cross_entropy
from deeplab_lesson.metrics import ConfusionMatrix
from deeplab_lesson.training import TrainConfig, load_checkpoint, load_weights, train

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
ARXIV = re.compile(r"\b(?:arXiv[: ]|arxiv\.org/abs/)(\d{4}\.\d{4,5})")
ROLE = re.compile(r"\{chapter\}`(?:Chapter )?(\d+)(?:#([\w-]+))?`")


def page(name: str) -> str:
    return (BOOK / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of book/_ext."""
    pytest.importorskip("myst_nb", reason="the book's packages are not installed")
    monkeypatch.syspath_prepend(BOOK / "_ext")
    return importlib.import_module


@cache
def prose(number: int) -> str | None:
    """The Markdown of a chapter; None where there is no such chapter yet."""
    for file in BOOK.glob(f"{number:02}_*.ipynb"):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return None


def anchors(number: int) -> set[str]:
    """The ids that Sphinx gives the headings of a chapter."""
    from docutils.nodes import make_id

    return {make_id(title) for title in re.findall(r"^#+ (.*)$", prose(number) or "", re.MULTILINE)}


# ---- links to chapters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["api", "faq", "glossary", "references", "results"])
def test_links_to_chapters_name_headings_that_are_there(name: str) -> None:
    pytest.importorskip("docutils")
    wrong = [
        f"chapter {number} has no heading #{anchor}"
        for number, anchor in ROLE.findall(page(name))
        if anchor and prose(int(number)) is not None and anchor not in anchors(int(number))
    ]
    assert wrong == [], f"book/{name}.md: give the heading's new name"
    assert all(1 <= int(number) <= 11 for number, _ in ROLE.findall(page(name)))


# ---- glossary ------------------------------------------------------------------------------------------------------

TERM = re.compile(r"^(\S[^\n]*?) <span lang=\"zh\">([^<]+)</span>\n: ((?:.+\n)+)", re.MULTILINE)
TERMS = TERM.findall(page("glossary"))


def test_glossary_has_each_term_once_in_order_with_chinese_and_a_link() -> None:
    names = [name for name, *_ in TERMS]
    assert len(TERMS) == page("glossary").count("\n: ") >= 60
    assert len(set(names)) == len(names)
    assert [name for name in names if not name.isprintable()] == []
    assert [name for name, chinese, _ in TERMS if not re.search(r"[\u4e00-\u9fff]", chinese)] == []
    assert [name for name, _, text in TERMS if len(ROLE.findall(text)) != 1] == []
    assert [name for name, _, text in TERMS if len(text.split()) > 40] == [], "one line says what it is"
    keys = ["conditional random field" if name.startswith("CRF,") else name.lower() for name in names]
    assert keys == sorted(keys)


@pytest.mark.parametrize("name", [name for name, *_ in TERMS])
def test_term_is_a_word_of_the_chapters(name: str) -> None:
    (number, _), *_ = (ROLE.findall(text)[0] for term, _, text in TERMS if term == name)
    if prose(int(number)) is None:
        pytest.skip(f"chapter {number} is not written yet")
    spoken = re.sub(r"\s+", " ", " ".join(filter(None, map(prose, range(1, 12)))).replace("*", "")).lower()
    forms = [form.strip().lower() for form in re.sub(r" of pictures$", "", name).split(",")]
    stems = [re.escape(form.removesuffix("ation").removesuffix("y")) for form in forms]
    assert re.search(rf"\b({'|'.join(stems)})", spoken), f"no chapter says {forms}"


# ---- FAQ -----------------------------------------------------------------------------------------------------------

QUOTED = dict(re.findall(r"```\{code-block\} text\n:name: says-([\w-]+)\n\n(.*?)\n```", page("faq"), re.DOTALL))
SMALL = {"model": "deeplabv3plus_mini", "steps": 1, "batch_size": 2, "crop": (64, 64), "device": "cpu", "log_every": 1}


def write_folder(*ids: int, ending: str = "png", names: tuple[str, ...] = ("background", "cat")) -> Path:
    """Pictures and masks of 64x64 pixels in ./pictures, the masks striped with `ids`."""
    root = Path("pictures")
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (64, 64)).save(root / split / "images" / f"{name}.png")
            stripes = np.resize(np.array(ids or (0,), np.uint8), (64, 64))
            Image.fromarray(stripes).save(root / split / "masks" / f"{name}.{ending}")
    (root / "classes.txt").write_text("\n".join(names) + "\n")
    return root


def read_first(
    *ids: int, ending: str = "png", mask: Image.Image | None = None, lose: str = "", **options: object
) -> None:
    root = write_folder(*ids, ending=ending)
    if mask:
        mask.save(root / "train/masks/a.png")
    if lose:
        (root / lose).unlink()
    ImageMaskFolder(root, "train", **options)[0]


def run(**changes: object) -> None:
    scenes = Scenes("train", (64, 64), 4)
    train(TrainConfig(**{**SMALL, "out": Path("runs/mine"), **changes}), train_set=scenes, val_set=scenes)


def run_twice(**changes: object) -> None:
    run()
    run(**changes)


def load_other_file() -> None:
    torch.save({"weight": torch.zeros(1)}, "theirs.pth")
    load_checkpoint("theirs.pth")


def mini(**options: object) -> torch.nn.Module:
    return create_model("deeplabv3plus_mini", **{"num_classes": 21, **options})


WEIGHTS = "weights/deeplabv3plus_mini.safetensors"
MISTAKES: dict[str, Callable[[], object]] = {
    "missing-mask": lambda: read_first(lose="train/masks/b.png"),
    "too-many-classes": lambda: mini(num_classes=256),
    "gray-palette": lambda: read_first(0, 38, 147, classes=VOC_CLASSES),
    "unknown-color": lambda: read_first(mask=Image.new("RGB", (64, 64), (10, 200, 30))),
    "jpeg-mask": lambda: read_first(ending="jpg"),
    "white-is-void": lambda: read_first(0, 255),
    "one-class": lambda: mini(num_classes=1),
    "sizes-differ": lambda: read_first(mask=Image.new("L", (64, 32))),
    "too-small": lambda: mini().eval()(torch.zeros(1, 3, 20, 20)),
    "batch-of-one": lambda: mini().train()(torch.zeros(1, 3, 65, 65)),
    "label-too-large": lambda: cross_entropy(torch.zeros(1, 21, 4, 4), torch.full((1, 4, 4), 37)),
    "unknown-id": lambda: read_first(0, 1, 2),
    "not-finite": lambda: run(steps=30, learning_rate=1e30),
    "folder-taken": lambda: run_twice(),
    "other-settings": lambda: run_twice(steps=2, learning_rate=0.2, resume=True),
    "no-gpu": lambda: run(device="cuda"),
    "logits-for-ids": lambda: ConfusionMatrix(21).update(torch.zeros(1, 21, 4, 4), torch.zeros(1, 4, 4).long()),
    "did-you-mean": lambda: create_model("deeplabv3_plus_resnet50"),
    "no-download": lambda: create_model("deeplabv3plus_resnet50", pretrained_backbone=True),
    "none-for-mini": lambda: mini(pretrained_backbone=True),
    "torchvision-has-none": lambda: load_torchvision_weights("deeplabv3plus_resnet50", {}),
    "other-model": lambda: load_weights(mini(), bundled(WEIGHTS)),
    "other-program": load_other_file,
    "impossible-stride": lambda: mini(output_stride=12),
    "give-the-file": lambda: predict(mini(), np.zeros((64, 64, 3), np.float32)),
    "normalized-for-crf": lambda: mean_field(torch.zeros(1, 2, 8, 8), torch.full((1, 3, 8, 8), -1.0)),
}
SAID_BY_THE_COMMAND = {"out-of-memory"}


def test_every_message_of_the_faq_is_tried() -> None:
    assert set(QUOTED) == set(MISTAKES) | SAID_BY_THE_COMMAND
    assert len(re.findall(r"^### ", page("faq"), re.MULTILINE)) >= 25


def assert_says(said: str, name: str) -> None:
    """Compare with the page, where ... stands for what differs between machines."""
    pattern = ".*".join(re.escape(part) for part in QUOTED[name].split("..."))
    assert re.fullmatch(pattern, said, re.DOTALL), f"the package says\n{said}\nand the page\n{QUOTED[name]}"


@pytest.mark.parametrize("name", MISTAKES)
def test_message_in_the_faq_is_what_the_package_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/home/you/.cache/torch/hub")
    monkeypatch.setattr("torchvision.models.get_model", no_network)
    if name == "white-is-void":
        with pytest.warns(UserWarning, match="0 and 255") as seen:
            MISTAKES[name]()
        assert_says(str(seen[0].message), name)
        return
    with pytest.raises((ValueError, TypeError, OSError)) as error:
        MISTAKES[name]()
    assert_says(str(error.value), name)


def no_network(*_: object, **__: object) -> None:
    raise URLError("no network")


def test_out_of_memory_in_the_faq_is_what_the_command_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setitem(cli.COMMANDS, "models", too_large)
    assert cli.main(["models"]) == 2
    assert_says(capsys.readouterr().err.strip(), "out-of-memory")


def test_what_the_faq_says_beside_the_messages_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    void = cross_entropy(torch.zeros(1, 21, 4, 4), torch.full((1, 4, 4), 255))
    assert float(void) == 0, "the losses give 0 for a batch of nothing but void"
    line = torch.arange(33)[None]
    exact = resize_labels(line, (1, 5))[0].tolist()
    plain = torch.nn.functional.interpolate(line[None].float(), size=5, mode="nearest")[0, 0].long().tolist()
    assert f"reads {', '.join(map(str, plain))}, and not {', '.join(map(str, exact))}" in " ".join(page("faq").split())
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[0, 1]]), torch.tensor([[0, 0]]))
    assert matrix.iou.nan_to_num(-1).tolist() == [0.5, 0.0, -1.0]
    monkeypatch.chdir(tmp_path)
    write_folder(0, 1)
    (tmp_path / "pictures/classes.txt").write_text("0 background 0 0 0\n1 cat 128 0 0\n")
    Image.new("RGB", (64, 64), (128, 0, 0)).save("pictures/train/masks/a.png")
    assert np.unique(ImageMaskFolder("pictures", "train")[0][1]).tolist() == [1], "classes.txt with colors"


def test_options_in_the_faq_are_options_of_training() -> None:
    words = set(re.findall(r"`--([a-z-]+)", page("faq")))
    assert words
    assert {word for word in words if not hasattr(TrainConfig(), word.replace("-", "_"))} == set()


def test_python_in_the_faq_can_be_read_and_imports_what_is_there() -> None:
    blocks = re.findall(r"```python\n(.*?)```", page("faq"), re.DOTALL)
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


# ---- API -----------------------------------------------------------------------------------------------------------

PUBLIC_API = [  # what chapters and users rely on
    "create_model", "list_models", "receptive_field", "plan_dilation", "gradient_receptive_field",
    "load_torchvision_weights", "mean_field", "exact_mean_field", "DenseCRF", "PermutohedralLattice", "free_energy",
    "PRESETS", "grid.energy", "grid.brute_force", "grid.icm", "grid.mean_field", "grid.belief_propagation",
    "cross_entropy", "dice_loss", "edge_loss", "lovasz_softmax", "focal_loss", "ohem_cross_entropy",
    "ConfusionMatrix", "trimap_iou", "panoptic_quality", "TrainConfig", "train", "poly_schedule", "step_schedule",
    "parameter_groups", "predict", "predict_multiscale", "overlay", "Scenes", "VOCFolder", "ImageMaskFolder",
    "VOC2012", "CamVid", "VOC_PALETTE", "check", "hint", "solution",
]  # fmt: skip


def api_modules() -> list[str]:
    return re.findall(r"```\{api\} ([\w.]+)", page("api"))


def test_api_lists_every_public_name_of_every_room(extension: Callable[[str], ModuleType]) -> None:
    write = extension("page_api")
    shown: dict[int, str] = {}
    text = "\n".join(write.module_markdown(name, {}, shown) for name in api_modules())
    for package in (ROOT / "deeplab_lesson").rglob("__init__.py"):
        dotted = ".".join(package.relative_to(ROOT).parent.parts)
        names = [name for name in getattr(importlib.import_module(dotted), "__all__", []) if not name.startswith("__")]
        missing = [
            name for name in names if f"`{dotted}.{name}`" not in text and f"{dotted}.{name}" not in api_modules()
        ]
        assert missing == [], f"book/api.md: add ```{{api}} {dotted}"
    assert [name for name in PUBLIC_API if not re.search(rf"`deeplab_lesson\.[\w.]*{re.escape(name)}`", text)] == []


def test_api_shows_signatures_as_the_source_spells_them_and_escapes_markdown(
    extension: Callable[[str], ModuleType],
) -> None:
    api = extension("page_api")

    def stack(first: int, *, rate: float = 2.0) -> "list[int]":
        """Lay layers [N, *size] <on> each other; see `$HOME`, --help and $1. arXiv 1706.05587.

            y = x * w

        Args:
            rate: <= 3.

        >>> stack(1)
        """
        return [first]

    text = api.entry("m", "stack", stack, [3, 4])
    assert '<span id="m.stack"></span>`m.stack` `(first: int, *, rate: float=2.0) -> list[int]`\n: Lay layers' in text
    assert r"[N, \*size] \<on>" in text
    assert "`$HOME`, `--help` and \\$1. [arXiv 1706.05587](https://arxiv.org/abs/1706.05587)" in text
    assert "```text\n  y = x * w\n  ```" in text
    assert "<summary>Args, Example</summary><pre>Args:<br>    rate: &lt;= 3.<br><br>&gt;&gt;&gt; stack(1)" in text
    assert "In {chapter}`3`, {chapter}`4`." in text


def test_api_names_the_chapters_whose_cells_use_a_name(extension: Callable[[str], ModuleType]) -> None:
    names = extension("page_chapters").names_used(
        ["if True:\n    %pip install x\nfrom deeplab_lesson.layers import atrous\natrous.gridding_coverage((1, 2))"]
    )
    assert names == {"layers.atrous", "layers.atrous.gridding_coverage"}
    api = extension("page_api")
    layers = importlib.import_module("deeplab_lesson.layers")
    uses = {3: names, 4: frozenset({"layers.effective_kernel_size"})}
    assert api.chapters_that_use(layers.gridding_coverage, "gridding_coverage", "deeplab_lesson.layers", uses) == [3]
    assert api.chapters_that_use(
        layers.effective_kernel_size, "effective_kernel_size", "deeplab_lesson.layers", uses
    ) == [4]


def test_settings_of_a_training_and_commands_are_all_listed(extension: Callable[[str], ModuleType]) -> None:
    settings = extension("page_settings")
    text = settings.settings_markdown("deeplab_lesson.training.TrainConfig")
    fields = TrainConfig.__dataclass_fields__
    assert re.findall(r"^`(\w+) = ", text, re.MULTILINE) == list(fields)
    assert "`batch_size = 16`\n: `int`. Pictures of one step" in text
    listed = settings.commands_markdown()
    assert [f"`deeplab-lesson {name}`" in listed for name in ("train", *cli.COMMANDS)] == [True] * (
        1 + len(cli.COMMANDS)
    )


# ---- results -------------------------------------------------------------------------------------------------------


def test_every_result_file_is_on_the_page_with_its_origin(extension: Callable[[str], ModuleType]) -> None:
    results = extension("page_results")
    files = results.result_files(ROOT)
    assert {file.parent.name for file in files} == {"results", "weights"}
    named = re.findall(r"```\{measured\} (\S+)", page("results"))
    assert [name for name in named if ROOT / name not in files] == []
    assert "```{measured-others}" in page("results"), "files that have no section of their own yet"
    others = results.files_not_named(ROOT, page("results"))
    assert sorted([*(ROOT / name for name in named), *others]) == files
    for file in files:
        record = json.loads(file.read_text(encoding="utf-8"))
        made = results.result_html(file.name, json.dumps(record))
        for fact in (record["device"], record["commit"], record["versions"]["torch"]):
            assert fact in made, f"{file.name}: {fact}"
        assert "<code>python -m benchmarks." in made
        assert '<th scope="col">' in made or len(record) < 8


def test_result_tables_show_the_numbers_of_the_file(extension: Callable[[str], ModuleType]) -> None:
    results = extension("page_results")
    score = {
        "iou": {"sky": 0.9337, "pole": None},
        "mean_iou": 0.517338,
        "trimap_mean_iou": {"4": 0.25},
        "pictures": 101,
    }
    record = {
        "command": "python -m benchmarks.x --steps 5 <y>",
        "device": "a GPU",
        "seconds": 95.4,
        "threads": 1,
        "versions": {"torch": "2.11"},
        "commit": "abc+",
        "seed": 0,
        "validation": score,
        "test": {"one": [score, {**score, "mean_iou": 0.6}]},
        "rows": [{"name": "m", "ours": {"parameters": 39638869}, "seconds": 1.07524, "ratio_range": [0.9535, 1.1257]}],
    }
    made = results.result_html("r.json", json.dumps(record))
    assert "a GPU; 1 thread; 1 min 35 s; torch 2.11; commit abc+" in made
    assert "<code>python -m benchmarks.x --steps 5 &lt;y&gt;</code>" in made
    assert "seed 0" in made
    assert '<th scope="row">sky</th><td>93.4</td>' in made
    assert '<th scope="row">pole</th><td>no pixels</td>' in made
    assert '<th scope="row">mean IoU within 4 px of a boundary</th><td>25.0</td>' in made
    assert '<th scope="row">pictures</th><td>101</td>' in made
    assert '<th scope="row">mean IoU</th><td>51.7 to 60.0</td>' in made
    assert "lowest to highest of 2 seeds" in made
    assert '<th scope="row">m</th><td>39,638,869</td><td>1.08</td><td>0.954 to 1.13</td>' in made
    assert made.count("<table") == made.count('tabindex="0"') == made.count("<caption>") == 3


def test_no_measured_number_is_typed_on_the_page_of_results() -> None:
    typed = re.findall(r"\b\d+\.\d+\b", page("results"))
    assert typed == []


# ---- references ----------------------------------------------------------------------------------------------------


@cache
def bibliography() -> dict[str, dict[str, str]]:
    """Key to fields of references.bib."""
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    return {key: dict(re.findall(r"(\w+) = \{(.*?)\}(?=,)", body)) for key, body in entries}


def test_every_work_has_authors_a_year_a_link_and_a_group_that_is_shown() -> None:
    shown = re.findall(r"```\{works\} (.+)", page("references"))
    assert len(bibliography()) >= 45
    for key, fields in bibliography().items():
        assert {"author", "title", "year", "keywords"} <= fields.keys(), key
        assert re.fullmatch(r"\d{4}\.\d{4,5}", fields.get("eprint", "")) or fields["url"].startswith("http"), key
        assert fields["keywords"] in shown, f"{key}: no section of references.md shows its group"
    assert {fields["keywords"] for fields in bibliography().values()} == set(shown)
    numbers = [fields["eprint"] for fields in bibliography().values() if "eprint" in fields]
    assert len(numbers) == len(set(numbers))


def test_every_paper_that_the_book_or_the_package_cites_is_in_the_references() -> None:
    known = {fields.get("eprint") for fields in bibliography().values()}
    files = [*BOOK.glob("*.ipynb"), *BOOK.glob("*.md"), *(ROOT / "deeplab_lesson").rglob("*.py")]
    cited = {(number, file.name) for file in files for number in ARXIV.findall(file.read_text(encoding="utf-8"))}
    assert len(cited) > 50
    assert {pair for pair in cited if pair[0] not in known} == set(), "add them to book/references.bib"


def test_list_of_works_names_authors_venue_link_and_citing_chapters(
    extension: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    references = extension("page_references")
    chapter = extension("page_chapters").Chapter
    file = tmp_path / "references.bib"
    file.write_text(
        "@misc{late, author = {van den Hengel, Anton and others}, title = {B: {C}}, year = {2016}, "
        "eprint = {1604.04339}, keywords = {K}, note = {By pixel}}\n"
        "@article{early, author = {Araujo, A. and Sim, J.}, title = {A}, journal = {Distill}, year = {2012}, "
        "url = {https://www.x.org/y/}, keywords = {K}}\n"
    )
    made = references.works_markdown(file, "K", [chapter(4, "see https://www.x.org/y/", frozenset())])
    assert made.splitlines() == [
        "- Araujo, Sim. *A*. Distill, 2012. [x.org/y](https://www.x.org/y/). Cited in {chapter}`4`.",
        "- van den Hengel, and others. *B: C*. 2016. [arXiv 1604.04339](https://arxiv.org/abs/1604.04339). By pixel.",
    ]
    with pytest.raises(ValueError, match=r"references.bib has no work with keywords = \{Z\}"):
        references.works_markdown(file, "Z", [])


def test_pages_are_in_the_table_of_contents() -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    named = {chapter["file"] for part in toc["parts"] for chapter in part["chapters"]}
    assert {f"book/{name}" for name in ("api", "faq", "glossary", "references", "results")} <= named
