"""A quiz has one right option a question, a reason behind each, and needs neither mouse nor script."""

import random
from html.parser import HTMLParser
from typing import Any

import pytest

from deeplab_lesson.layers.atrous import effective_kernel_size
from deeplab_lesson.notebook.quiz import Option, Question, Quiz, right, wrong

SPAN = Question(
    "What does a 3x3 kernel at rate 4 span?",
    right(effective_kernel_size(3, 4), "`k + (k - 1)(r - 1)` pixels on each axis."),
    wrong(12, "That counts the zeros after the last tap."),
    wrong(3, "That is the number of taps."),
)
COST = Question(
    "Which weights < 0 & > 0 does `rate` add?",
    wrong("one a hole", "A hole has no weight."),
    right("none", "It reads the same number of pixels."),
    wrong("`rate**2`", "Only zeros would stand there."),
)


def test_text_is_fixed_and_numbers_are_in_order() -> None:
    quiz = Quiz(SPAN)
    assert repr(quiz) == "1. What does a 3x3 kernel at rate 4 span?\n   a) 3\n   b) 9\n   c) 12"
    assert quiz.answers() == "1. b) 9. `k + (k - 1)(r - 1)` pixels on each axis."


def test_the_order_of_options_is_drawn_from_their_text_and_not_from_their_place() -> None:
    options = list(COST.options)
    for seed in range(10):
        random.Random(seed).shuffle(options)
        assert str(Question(COST.text, *options)) == str(COST)
    places = set()
    for number in range(30):
        question = Question(f"Question {number}?", right("yes", "r"), wrong("no", "r"), wrong("perhaps", "r"))
        places.add([option.is_right for option in question.options].index(True))
    assert places == {0, 1, 2}


class Reader(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.outside_details = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "details" not in self.open or "summary" in self.open:
            self.outside_details += data


def test_each_option_opens_by_itself_and_nothing_tells_before() -> None:
    reader = Reader(Quiz(SPAN, COST)._repr_html_())
    tags = [tag for tag, _ in reader.seen]
    assert tags.count("details") == tags.count("summary") == 6
    assert not any("open" in attributes or "id" in attributes for _, attributes in reader.seen)
    assert not {"script", "style", "input"} & set(tags)
    for hidden in ("✓", "✗", "Right", "reads the same number"):
        assert hidden not in reader.outside_details
    assert "c) 12" in reader.outside_details


def test_each_question_is_a_named_group_and_text_is_escaped() -> None:
    html = Quiz(SPAN, COST)._repr_html_()
    groups = [attributes for tag, attributes in Reader(html).seen if attributes.get("role") == "group"]
    assert [group["aria-label"] for group in groups] == [
        "Question 1: What does a 3x3 kernel at rate 4 span?",
        "Question 2: Which weights < 0 & > 0 does rate add?",
    ]
    assert "weights &lt; 0 &amp; &gt; 0 does <code style=" in html
    assert "color: inherit" in html
    assert ">rate**2</code>" in html
    assert html.count("✓ Right.") == 2
    assert html.count("✗ No.") == 4


def test_large_numbers_have_commas() -> None:
    assert right(20_505_429, "r").text == "20,505,429"
    assert right(2048, "r").text == "2048"
    assert right(0.5, "r").text == "0.5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((wrong(1, "r"), wrong(2, "r")), r"'Q\?' has 0 right options: give one right"),
        ((right(1, "r"), right(2, "r")), "has 2 right options"),
        ((right(1, "r"),), "has 1 options: allowed are 2 to 8"),
        ((right(9, "r"), wrong(9, "r")), "the option '9' twice: a wrong option must not equal the computed answer"),
        ((right(9, "r"), wrong("9", "r")), "the option '9' twice"),
        ((right(9, "r"), wrong(8, " ")), "no reason for the option '8'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(options: tuple[Option, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Question("Q?", *options)


def test_an_empty_quiz_is_refused() -> None:
    with pytest.raises(ValueError, match="a quiz without questions"):
        Quiz()
