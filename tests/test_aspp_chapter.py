"""Chapter 7 says in words what its cells print, and quotes the papers: both must stay as they are."""

import json
import re
from pathlib import Path

import chapter_cells
import pytest

from deeplab_lesson.data.scenes import SHAPES
from deeplab_lesson.layers import valid_weight_counts
from deeplab_lesson.notebook.running_table import measured

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = "07_aspp"


def printed(name: str) -> str:
    return chapter_cells.printed(CHAPTER, name)


def said(name: str) -> str:
    return chapter_cells.source(CHAPTER, name)


def percents(name: str) -> dict[str, float]:
    """The last percentage of each line that a cell prints, by what stands before the first colon."""
    found = {}
    for line in printed(name).splitlines():
        if numbers := re.findall(r"([\d.]+)%", line):
            found[line.rpartition(":")[0].strip()] = float(numbers[-1])
    return found


def row(name: str, first: str) -> list[str]:
    """The cells of a table's row behind its first one."""
    return next(cells for start, *cells in chapter_cells.table_rows(CHAPTER, name) if start.startswith(first))


def short(row: str) -> float:
    """Mean IoU of the ablation's short training, in percent, as its table has it."""
    found = json.loads((ROOT / "book/results/ablation_cpu.json").read_text(encoding="utf-8"))
    (score,) = (each["test_mean_iou"] for each in found["models"] if each["row"] == row)
    return round(100 * score, 1)


def signed(points: float) -> str:
    return f"{'+' if points > -0.05 else '−'} {abs(points):.1f}"


def test_gain_of_the_image_pyramid_is_the_one_printed() -> None:
    both = float(re.findall(r"mean IoU ([\d.]+)%", printed("pyramid"))[0])
    alone = percents("ideal-run")["v1, stride 8"]
    assert f"+ {both - alone:.1f} (v1, sizes 1 and 2)" in row("papers", "several input sizes")[1]
    assert round(both - alone) == 5
    assert "rises by 5 points" in said("families")


def test_one_picture_of_a_better_size_gains_as_much_as_two_sizes() -> None:
    both, one = re.findall(r"(?:mean IoU|times the size:) ([\d.]+)%", printed("pyramid"))
    assert abs(float(one) - float(both)) < 0.5
    alone = percents("ideal-run")["v1, stride 8"]
    assert f"size 1.5 alone + {float(one) - alone:.1f}" in row("papers", "several input sizes")[1]


def test_most_of_the_shapes_area_is_that_of_the_large_ones() -> None:
    area = [int(share) for share in re.findall(r"(\d+)% of the shapes' area", printed("sizes-run"))]
    assert len(area) == 5
    assert sum(area[3:]) > 80  # of 40 pixels and more


def test_weights_that_only_ever_read_padding_are_counted_right() -> None:
    means = [valid_weight_counts((side, side), 24).double().mean().item() for side in (21, 33, 41, 65)]
    assert f"{', '.join(f'{mean:.1f}' for mean in means[:3])} and {means[3]:.1f}" in said("valid-explain")
    never = sum(8 for rate in (6, 12, 18) if rate >= 8)  # on 8 x 8 every neighbor at such a rate lies outside
    assert all(valid_weight_counts((8, 8), rate).max() == 1 for rate in (12, 18))
    assert f"{never} of the 27 would never learn" in said("break-rates-read")


def test_gain_of_several_rates_is_the_one_printed() -> None:
    scores = dict(re.findall(r"^(.+?)\s+\d+ weights a channel: mean IoU ([\d.]+)%", printed("fit-run"), re.MULTILINE))
    assert len(scores) == 7
    one = float(scores["LargeFOV: rate 4"])
    small, large = (float(scores[f"ASPP-{name}"]) - one for name in ("S: 1, 2, 3, 4", "L: 2, 4, 6, 8"))
    v1, v2 = (measured(f"deeplab{name}_mini") for name in ("v1", "v2"))
    trained = 100 * (v2["mean_iou"] - v1["mean_iou"])
    assert row("papers", "four rates")[1] == (
        f"+ {trained:.1f} (v1 to v2); fitted heads + {large:.1f} (ASPP-L), + {small:.1f} (ASPP-S); "
        f"short training {signed(short('v2, ASPP-S') - short('v2, one rate'))} (ASPP-S), "
        f"{signed(short('DeepLab v2') - short('v2, one rate'))} (ASPP-L)"
    )
    assert f"{trained:.1f} points before v1" in said("measured-read")
    behind = {name: round(100 * (v1["iou"][name] - v2["iou"][name]), 1) for name in v1["iou"]}
    assert {name: points for name, points in behind.items() if points > 0} == {"background": 0.1}
    assert all(v2["iou"][name] > v1["iou"][name] for name in SHAPES)
    assert float(scores["rates 1 and 4"]) > float(scores["7x7"]) > float(scores["rate 1"])
    assert round(one - float(scores["rate 16"])) == 3  # "the three points that it lacks"


def test_short_trainings_are_quoted_as_their_tables_have_them() -> None:
    assert f"ASPP-L ({short('DeepLab v2')}, in" in said("ablation-read")
    for row, words in (("DeepLab v3", "at stride 16"), ("v3, stride 8", "at 8"), ("v2, one rate", "")):
        assert f"{short(row)} % {words}".strip() in said("named-read")
    others = [short(row) for row in ("v3, no image pooling", "v3, no multi-grid", "v3, cascade")]
    assert max(abs(score - short("v3, stride 8")) for score in others) < 1  # "no more than the spread"
    alike = [short(row) for row in ("PSPNet", "v2, one rate", "v2, ASPP-S", "DeepLab v2")]
    assert max(alike) - min(alike) <= 1.5  # "within a point and a half of each other"
    assert all(2 <= score - short("v3, stride 8") <= 4 for score in alike)  # "two to four points behind"
    assert short("FPN") == max(short(row) for row in ("FPN", "PSPNet", "v2, one rate", "v3, stride 8"))


def test_gain_of_a_finer_map_is_the_one_printed() -> None:
    scores = percents("finer")
    best = max(scores, key=lambda name: scores[name])
    assert best.endswith("moved by 4 pixels")
    gain = scores[best] - scores["v3 at output stride 16"]
    assert row("papers", "evaluating at output stride 8")[1] == f"+ {gain:.1f} (v3, moved)"
    assert f"{gain:.1f} points better" in said("finer-read")


def test_image_pooling_of_our_v3_is_worth_nothing_that_counts() -> None:
    lines = dict(re.findall(r"^(.+?):\s+([\d.]+)%", printed("pooling-run"), re.MULTILINE))
    trained = float(lines["v3 as trained"])
    for name in ("another picture's mean", "no image pooling"):
        assert trained - float(lines[name]) < 0.5
    assert f"{trained - float(lines['no image pooling']):.1f}" == row("papers", "image pooling")[1]


def test_most_of_what_v3_has_wrong_beyond_v1_lies_near_boundaries() -> None:
    (near1, far1), (near3, far3) = (
        [int(number) for number in re.findall(r"\b(\d{4,6})\b", line)] for line in printed("left-run").splitlines()
    )
    assert near3 / near1 > 1.7  # "almost twice as often"
    assert far3 / far1 < 1.2  # "about equally often"
    assert (near3 - near1) / (near3 + far3 - near1 - far1) > 0.95  # "nearly the whole difference"


@pytest.mark.parametrize(
    ("cell", "numbers"),
    [  # as the project's notes have them from the papers' text
        ("papers", "65.76 69.84 66.98 69.73 68.96 71.57 68.72 71.27 74.87 75.54 76.35 77.69"),
        ("papers", "75.36 75.93 76.58 76.46 77.21 78.51 79.45 79.77 82.70 85.7 79.7 62.25 65.88"),
        ("cascade-read", "20.29 42.34 59.99 70.06 73.88 75.18"),
        ("cascade-read", "64.81 72.14 74.29 73.88 68.39 73.21 75.34 75.76 70.23 75.67 76.09 76.66"),
        ("cascade-read", "73.14 75.78 75.96 76.11 73.45 75.74 75.85 76.02 71.45 74.30 74.70 74.62"),
        ("pooling-read", "75.95 77.21 64.43 75.76 76.49 0.63"),
        ("valid-crops-read", "77.21 67.22"),
        ("crop-read", "78.79 79.14"),
    ],
)
def test_papers_number_stands_in_the_chapter(cell: str, numbers: str) -> None:
    for number in numbers.split():
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", said(cell)), number


def test_differences_of_the_papers_are_those_of_their_tables() -> None:
    assert row("papers", "several input sizes")[0] == f"+ {71.27 - 68.72:.2f} (v2), + {79.45 - 78.51:.2f} (v3)"
    assert row("papers", "four rates")[0] == f"+ {76.35 - 75.54:.2f} (ResNet-101) to + {68.96 - 65.76:.2f} (VGG-16)"
    assert row("papers", "image pooling")[0] == f"+ {77.21 - 76.58:.2f}"
    assert row("papers", "evaluating at output stride 8")[0] == f"+ {78.51 - 77.21:.2f}"
