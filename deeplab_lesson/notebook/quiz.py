"""Quizzes: questions whose options open on a click and say why they are right or wrong.

Plain `<details>` elements: they work with a keyboard and a screen reader, on a page without scripts, on Colab and on
GitHub. The right answers are computed where the quiz is written: `right(effective_kernel_size(3, 4), "...")`.
"""

import hashlib
from dataclasses import dataclass
from html import escape

from deeplab_lesson.exercises.cards import paragraph, with_code

LETTERS = "abcdefgh"
BOX = "border-left: 4px solid #0072B2; padding: 0.1em 0 0.1em 0.8em; margin: 0.8em 0"
LIST = "list-style: none; margin: 0.3em 0; padding: 0"

Answer = str | int | float


@dataclass(frozen=True)
class Option:
    """One option of a question, made by `right` or `wrong`."""

    answer: Answer
    reason: str
    is_right: bool

    @property
    def text(self) -> str:
        """Numbers from 10,000 on with commas."""
        if isinstance(self.answer, str):
            return self.answer
        return f"{self.answer:,}" if abs(self.answer) >= 10_000 else f"{self.answer}"


def right(answer: Answer, reason: str) -> Option:
    """The right option. Where the package can compute the answer, write the call and not the number."""
    return Option(answer, reason, True)


def wrong(answer: Answer, reason: str) -> Option:
    """An option that a reader may believe, and what speaks against it."""
    return Option(answer, reason, False)


class Question:
    """One question with one right option.

    Numbers are put in order; other options are put in an order drawn from their text, so that the place of the right
    one says nothing and is the same each time. Backticks set code.

    Raises:
        ValueError: not one right option, fewer than two options, an option that is there twice, or without a reason.
    """

    def __init__(self, text: str, *options: Option) -> None:
        seen = f"the question {text!r} has"
        rights = sum(option.is_right for option in options)
        if rights != 1:
            raise ValueError(f"{seen} {rights} right options: give one right(...)")
        if not 2 <= len(options) <= len(LETTERS):
            raise ValueError(f"{seen} {len(options)} options: allowed are 2 to {len(LETTERS)}")
        texts = [option.text for option in options]
        if twice := sorted({each for each in texts if texts.count(each) > 1}):
            raise ValueError(f"{seen} the option {twice[0]!r} twice: a wrong option must not equal the computed answer")
        if bare := [option.text for option in options if not option.reason.strip()]:
            raise ValueError(f"{seen} no reason for the option {bare[0]!r}: each option, right or wrong, has one")
        self.text = text
        self.options = tuple(sorted(options, key=self._place))

    def _place(self, option: Option) -> tuple[float, str]:
        if not isinstance(option.answer, str):
            return float(option.answer), ""
        return 0.0, hashlib.sha256(f"{self.text}\n{option.answer}".encode()).hexdigest()

    def __str__(self) -> str:
        options = (f"   {letter}) {option.text}" for letter, option in zip(LETTERS, self.options, strict=False))
        return "\n".join([self.text, *options])

    def html(self, number: int) -> str:
        """The question as a group; each option opens on a click."""
        items = []
        for letter, option in zip(LETTERS, self.options, strict=False):
            reason = paragraph(f"{'✓ Right.' if option.is_right else '✗ No.'} {option.reason}")
            summary = f"<summary>{letter}) {with_code(option.text)}</summary>"
            items.append(f"<li><details>{summary}{reason}</details></li>")
        return (
            f'<div role="group" aria-label="Question {number}: {escape(self.text.replace("`", ""))}" style="{BOX}">'
            f'{paragraph(f"{number}. {self.text}")}<ul style="{LIST}">{"".join(items)}</ul></div>'
        )


class Quiz:
    """A quiz shows itself in a notebook, as a cell's last value. `print(quiz.answers())` is for a terminal."""

    def __init__(self, *questions: Question) -> None:
        if not questions:
            raise ValueError("a quiz without questions: give one or more, Quiz(Question(...), ...)")
        self.questions = questions

    def __repr__(self) -> str:
        return "\n".join(f"{number}. {question}" for number, question in enumerate(self.questions, 1))

    def _repr_html_(self) -> str:
        return "".join(question.html(number) for number, question in enumerate(self.questions, 1))

    def answers(self) -> str:
        """The right options with their reasons, as text."""
        lines = []
        for number, question in enumerate(self.questions, 1):
            for letter, option in zip(LETTERS, question.options, strict=False):
                if option.is_right:
                    lines.append(f"{number}. {letter}) {option.text}. {option.reason}")
        return "\n".join(lines)
