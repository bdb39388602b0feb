"""The grammar of a chapter: what each one holds, in the words that all of them use.

A rule looks at one chapter and says what is missing, with the cell where there is one. Each rule is shown a made
chapter that keeps all of them, and copies of it in which one thing is wrong. What is not here: the setup cell, the
length of cells and of prose and the Markdown that is allowed (test_figures.py), stored outputs (nbval and
normalize.py), stubs and checks (test_exercises.py).
"""

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from deeplab_lesson.exercises.registry import CHAPTERS as EXERCISES

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
FILES = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
# At least so many sliders, by the chapter's number; one where nothing stands here.
SLIDERS = {1: 2, 2: 3, 3: 3, 4: 3, 5: 2, 6: 3, 7: 3, 8: 3, 9: 3, 10: 3}

# What a chapter need not keep yet: file to (rules, reason). A rule that it keeps after all must go from here.
EXCEPTIONS: dict[str, tuple[set[str], str]] = {}


class Chapter:
    """A chapter as the rules see it: its file's name, its cells, and its sections by their headings."""

    def __init__(self, name: str, notebook: NotebookNode) -> None:
        self.name = name
        self.number = int(name[:2])
        self.cells = notebook.cells

    @property
    def code(self) -> list[NotebookNode]:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @property
    def prose(self) -> Iterator[tuple[str, str]]:
        """Cell id and text of each Markdown cell, without blocks of code."""
        for cell in self.cells:
            if cell.cell_type == "markdown":
                yield cell.id, re.sub(r"^```.*?^```$", "", cell.source, flags=re.DOTALL | re.MULTILINE)

    def cell_with(self, pattern: str) -> str | None:
        """The id of the first Markdown cell in which the pattern is found."""
        return next((name for name, text in self.prose if re.search(pattern, text, re.MULTILINE)), None)

    def section(self, title: str) -> "Section | None":
        """The first section, of level 2 or 3, whose heading is a title, up to the next heading that is as high."""
        found: Section | None = None
        texts = dict(self.prose)
        for cell in self.cells:
            if found is not None and cell.cell_type == "code":
                found.code.append(cell)
            for line in texts.get(cell.id, "").splitlines():
                heading = re.match(r"(##+) (.*)", line)
                if found is None and heading and re.fullmatch(title, heading[2].strip()):
                    found = Section(len(heading[1]), cell.id)
                elif found is not None and heading and len(heading[1]) <= found.level:
                    return found
                elif found is not None:
                    found.lines.append(line)
        return found


class Section:
    """Part of a chapter: lines of its Markdown, and its code cells."""

    def __init__(self, level: int, cell: str) -> None:
        self.level, self.cell = level, cell
        self.lines: list[str] = []
        self.code: list[NotebookNode] = []

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def has_table(self) -> bool:
        return re.search(r"^\|[-| :]+\|$", self.text, re.MULTILINE) is not None


def items(lines: list[str]) -> list[str]:
    """The entries of the first list among lines."""
    found: list[str] = []
    for line in lines:
        if re.match(r"(-|\d+\.) ", line):
            found.append(line)
        elif found and line.strip() and not line.startswith(" "):
            break
    return found


# ---- the rules -----------------------------------------------------------------------------------------------------

Rule = Callable[[Chapter], Iterator[str]]
RULES: dict[str, Rule] = {}
CALLS_THAT_DRAW = re.compile(r"^(?:[\w, ()]+ = )?(panels|plt\.show|show|explore)\(", re.MULTILINE)
GOALS = r"^\*\*You will be able to\*\*$"
ENDING = ("Break it", "What tutorials get wrong", "Exercises", "Quiz", "Summary")  # in this order
CHOICE = r"^\*\*Which one to choose\.\*\*"
READING = "Further reading"


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


@rule
def title(chapter: Chapter) -> Iterator[str]:
    first = chapter.cells[0]
    if first.cell_type != "markdown" or not re.match(rf"# {chapter.number}\. \S", first.source):
        yield f"cell {first.id}: does not begin with the title, '# {chapter.number}. ...'"


@rule
def opening(chapter: Chapter) -> Iterator[str]:
    words = 0
    for cell in chapter.cells:
        if cell.cell_type == "markdown" and re.search(GOALS, cell.source, re.MULTILINE):
            yield f"cell {cell.id}: the goals stand before the first picture: begin with a picture of the failure"
        if cell.cell_type == "markdown":
            words += len(cell.source.split())
        elif CALLS_THAT_DRAW.search(cell.source):
            break
    else:
        yield "no cell draws a picture"
    if words > 250:
        yield f"{words} words before the first picture: at most 250"


@rule
def goals(chapter: Chapter) -> Iterator[str]:
    for name, text in chapter.prose:
        if found := re.search(GOALS, text, re.MULTILINE):
            number = len(items(text[found.end() :].splitlines()))
            if not 3 <= number <= 5:
                yield f"cell {name}: {number} goals under **You will be able to**: give a list of three to five"
            return
    yield "no line **You will be able to**, with a list of three to five goals below it"


@rule
def needs_and_time(chapter: Chapter) -> Iterator[str]:
    if chapter.cell_with(r"^\*\*Needs\*\* \S") is None:
        yield "no line **Needs** ..., with the chapters that come before"
    time = r"\*\*Time\*\*: about \d+ minutes to read, (about )?\d+ (seconds|minutes) to run"
    if chapter.cell_with(time) is None:
        yield "no **Time**: about N minutes to read, N seconds to run"


@rule
def by_hand(chapter: Chapter) -> Iterator[str]:
    if chapter.cell_with("(?i)by hand") is None:
        yield "nothing is done by hand: show the idea with its arithmetic on an input of at most 7 x 7"


@rule
def own_loop(chapter: Chapter) -> Iterator[str]:
    if not any("assert_close(" in cell.source for cell in chapter.code):
        yield "no code cell calls assert_close: show your own loop equal to the package's function"


@rule
def predictions(chapter: Chapter) -> Iterator[str]:
    number = 0
    for place, cell in enumerate(chapter.cells):
        if cell.cell_type == "markdown" and (here := len(re.findall(r"^> \*\*Predict\.\*\* ", cell.source, re.M))):
            number += here
            if place + 1 == len(chapter.cells) or chapter.cells[place + 1].cell_type != "code":
                yield f"cell {cell.id}: its **Predict.** is not followed by the code cell that answers it"
    if number < 3:
        yield f"{number} questions '> **Predict.** ...': at least three"


@rule
def sliders(chapter: Chapter) -> Iterator[str]:
    number = sum("explore" in CALLS_THAT_DRAW.findall(cell.source) for cell in chapter.code)
    least = SLIDERS.get(chapter.number, 1)
    if number < least:
        yield f"{number} sliders (explore): at least {least}"


@rule
def break_it(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("Break it")
    if section is None or not section.code:
        yield "no section '## Break it' with a code cell"


@rule
def papers_table(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("The (paper's|papers') numbers beside ours")
    if section is None:
        yield 'no section "The paper\'s numbers beside ours"'
    elif not section.has_table:
        yield f'cell {section.cell}: no table under "The paper\'s numbers beside ours"'


@rule
def tutorials(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("What tutorials get wrong")
    if section is None or not section.code or not re.search(r'^\*\*".+"\*\*', section.text, re.MULTILINE):
        yield "no section '## What tutorials get wrong' with a claim, **\"...\"**, and a code cell that refutes it"


@rule
def exercises(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("Exercises")
    if section is None:
        yield "no section '## Exercises'"
        return
    levels = [line.removeprefix("### ") for line in section.lines if line.startswith("### ")]
    if levels != ["Easy", "Medium", "Project"]:
        yield f"cell {section.cell}: the exercises stand under {levels}, not under ### Easy, ### Medium, ### Project"
    numbers = [int(number) for number in re.findall(r"^\*\*(\d+)\. ", section.text, re.MULTILINE)]
    if numbers != list(range(1, len(numbers) + 1)) or not 4 <= len(numbers) <= 6:
        yield f"cell {section.cell}: exercises with the numbers {numbers}: write four to six, **1. ...** and so on"
    sources = [cell.source for cell in chapter.code]
    stubs = []
    for cell in chapter.code:
        for tag in cell.metadata.get("tags", []):
            name = tag.removeprefix("exercise:")
            if name != tag:
                stubs.append(name)
                for shown in ("hint", "solution"):
                    if f'{shown}("{name}")' not in sources:
                        yield f'cell {cell.id}: no cell {shown}("{name}")'
    known = [each.name for group in EXERCISES if group.number == chapter.number for each in group.exercises]
    if sorted(stubs) != sorted(known):
        yield f"cell {section.cell}: stubs of {stubs}, but the package's exercises of this chapter are {known}"


@rule
def quiz(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("Quiz")
    if section is None:
        yield "no section '## Quiz'"
        return
    source = "\n".join(cell.source for cell in section.code)
    questions, quizzes = (len(re.findall(rf"\b{name}\(", source)) for name in ("Question", "Quiz"))
    if quizzes != 1 or not 4 <= questions <= 5:
        yield f"cell {section.cell}: {quizzes} quizzes with {questions} questions: one, with four or five"
    hidden = {"tags": ["remove-input"], "cellView": "form", "jupyter": {"source_hidden": True}}
    for cell in section.code:
        if missing := [key for key, value in hidden.items() if cell.metadata.get(key) != value]:
            wanted = ", ".join(f"{key}: {hidden[key]}" for key in missing)
            yield f"cell {cell.id}: its code shows the answers: hide it by the metadata {wanted}"


@rule
def summary(chapter: Chapter) -> Iterator[str]:
    section = chapter.section("Summary")
    if section is None:
        yield "no section '## Summary'"
        return
    if (number := len(items(section.lines))) != 5:
        yield f"cell {section.cell}: a summary of {number} lines: a list of five"
    if not section.has_table and not re.search(CHOICE, section.text, re.MULTILINE):
        yield f"cell {section.cell}: no word on what to choose when: a table, or **Which one to choose.**"


@rule
def further_reading(chapter: Chapter) -> Iterator[str]:
    for name, text in chapter.prose:
        if found := re.search(rf"^(## {READING}$|\*\*{READING}\.\*\*)", text, re.MULTILINE):
            if len(re.findall(r"\]\(https?://[^)\s]+\)", text[found.end() :])) < 2:
                yield f"cell {name}: fewer than two links under {READING}"
            return
    yield f"no section '## {READING}'"


@rule
def order(chapter: Chapter) -> Iterator[str]:
    headings = [line[3:] for _, text in chapter.prose for line in text.splitlines() if line.startswith("## ")]
    here = [heading for heading in headings if heading in ENDING]
    if here != sorted(here, key=ENDING.index):
        yield f"sections stand as {', '.join(here)}: the order is {', '.join(ENDING)}"


@rule
def alt_texts(chapter: Chapter) -> Iterator[str]:
    for cell in chapter.code:
        called = set(CALLS_THAT_DRAW.findall(cell.source))
        shown = (output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", []))
        draws = called or any(text.startswith("<Figure size ") for text in shown)
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if draws and not called & {"show", "explore"} and len(alt.split()) < 8:  # those two demand theirs
            yield f"cell {cell.id}: draws a picture and has no alt text of eight words or more in its metadata"
    for name, text in chapter.prose:
        if found := re.search(r"!\[\s*\]\(([^)]*)\)", text):
            yield f"cell {name}: the picture {found[1]} has no alt text"


@rule
def links(chapter: Chapter) -> Iterator[str]:
    for name, text in chapter.prose:
        for target in re.findall(r"\]\(<?([^)>\s]*)[^)]*\)", re.sub(r"`[^`\n]+`|\$[^$]+\$", "", text)):
            if re.match(r"https?://[\w.-]+\.\w+(/\S*)?$|mailto:", target):
                continue
            path, _, anchor = target.partition("#")
            there = [BOOK / f"{path}{ending}" for ending in ("", ".ipynb", ".md") if path]
            file = next((file for file in there if file.is_file()), None)
            if path and file is None:
                yield f"cell {name}: the link to {target} is dead: there is no such file in book/"
            elif anchor and anchor not in anchors(file or chapter):
                yield f"cell {name}: the link to {target} is dead: no heading there has this anchor"


def anchors(place: Path | Chapter) -> set[str]:
    """The names by which headings can be linked to."""
    if isinstance(place, Chapter):
        text = "\n".join(text for _, text in place.prose)
    elif place.suffix == ".ipynb":
        return anchors(Chapter(place.stem, nbformat.read(place, as_version=4)))
    else:
        text = place.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


# ---- every chapter keeps them --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_chapter_keeps_the_grammar(file: Path, name: str) -> None:
    found = [
        f"{file.name}, {problem}" for problem in RULES[name](Chapter(file.stem, nbformat.read(file, as_version=4)))
    ]
    excused, reason = EXCEPTIONS.get(file.stem, (set(), ""))
    if name in excused:
        assert found, f"{file.name} keeps the rule {name!r} now: take it from EXCEPTIONS ({reason})"
    else:
        assert not found, "\n".join(found)


def test_exceptions_name_files_and_rules_that_exist_and_a_reason() -> None:
    assert set(EXCEPTIONS) <= {file.stem for file in FILES}
    for names, reason in EXCEPTIONS.values():
        assert names <= set(RULES)
        assert reason


# ---- and what does not is noticed ----------------------------------------------------------------------------------

ALT = {"mystnb": {"image": {"alt": "A picture beside its label map; one small disk is missing in it."}}}
HIDDEN = {"tags": ["remove-input"], "cellView": "form", "jupyter": {"source_hidden": True}}
MADE_GOALS = """\
**You will be able to**

- one;
- two,
  which goes on;
- three.

**Needs** chapter 1. **Time**: about 10 minutes to read, 5 seconds to run on two CPU cores.

> **Predict.** One?"""
MADE_SUMMARY = """\
## Summary

1. One.
2. Two.
3. Three.
4. Four.
5. Five.

**Which one to choose.** This one.

## Further reading

- [One](https://arxiv.org/abs/1412.7062).
- [Two](https://arxiv.org/abs/1606.00915), and [above](#break-it), and [chapter 3](03_atrous_convolution.ipynb)."""


@pytest.fixture
def made() -> Chapter:
    """The shortest chapter 4 that keeps every rule."""
    cells: list[NotebookNode] = []

    def add(kind: str, name: str, source: str, **metadata: object) -> None:
        make = nbformat.v4.new_code_cell if kind == "code" else nbformat.v4.new_markdown_cell
        cells.append(make(source, id=name, metadata=metadata))

    add("prose", "title", "# 4. Made\n\nLook.")
    add("code", "first", "_ = panels([image])\nplt.show()", **ALT)
    add("prose", "goal", MADE_GOALS)
    for name in ("one", "two", "three"):
        add("code", name, f"explore(draw_{name}, rate=[1, 2])")
        add(
            "prose", f"{name}-read", "By hand: 1 + 1 = 2.\n\n> **Predict.** And now?\n\n![A ring.](_static/favicon.svg)"
        )
    add("code", "equal", "assert_close(ours, theirs)")
    add("prose", "break", "## Break it\n\n### One way")
    add("code", "broken", "layer(1)")
    add("prose", "paper", "### The paper's numbers beside ours\n\n| a | b |\n|---|--:|\n| 1 | 2 |")
    add("prose", "wrong", '## What tutorials get wrong\n\n**"It is free."** It is not:')
    add("code", "refuted", "print(2)")
    tasks = [each.name for group in EXERCISES if group.number == 4 for each in group.exercises]
    add("prose", "exercises", "## Exercises\n\n### Easy")
    for number, task in enumerate(tasks, 1):
        level = {3: "### Medium\n\n", 5: "### Project\n\n"}.get(number, "")
        add("prose", f"ex-{number}", f"{level}**{number}. Do it.** Now.")
        add("code", f"stub-{number}", "def f(): ...", tags=[f"exercise:{task}"])
        for shown in ("hint", "solution"):
            add("code", f"{shown}-{number}", f'{shown}("{task}")')
    add("prose", "quiz-title", "## Quiz\n\nChoose.")
    add("code", "quiz", "Quiz(Question(1), Question(2), Question(3), Question(4))", **HIDDEN)
    add("prose", "summary", MADE_SUMMARY)
    return Chapter("04_made", nbformat.v4.new_notebook(cells=cells))


def problems(chapter: Chapter) -> list[str]:
    return [f"{name}: {problem}" for name, check in RULES.items() for problem in check(chapter)]


def test_the_made_chapter_keeps_every_rule(made: Chapter) -> None:
    assert problems(made) == []


# rule, cell, what stands there, what takes its place (None: the cell goes), what is said
SPOILED = [
    ("title", "title", "# 4. Made", "# 5. Made", "cell title: does not begin with the title, '# 4. ...'"),
    ("opening", "title", "Look.", "word " * 250, "253 words before the first picture: at most 250"),
    ("opening", "first", "", None, "cell goal: the goals stand before the first picture"),
    ("goals", "goal", "- two,\n  which goes on;\n", "", "cell goal: 2 goals under"),
    ("goals", "goal", "**You will be able to**", "You will", "no line **You will be able to**"),
    ("needs_and_time", "goal", "**Needs**", "It needs", "no line **Needs**"),
    ("needs_and_time", "goal", "about 10 minutes to read, ", "", "no **Time**: about N minutes to read"),
    ("by_hand", "*", "By hand", "With a pen", "nothing is done by hand"),
    ("own_loop", "equal", "assert_close", "print", "no code cell calls assert_close"),
    ("predictions", "*", "> **Predict.** And", "> And", "1 questions '> **Predict.** ...': at least three"),
    ("predictions", "goal", "> **Predict.** One?", "", None),
    ("predictions", "wrong", "It is not:", "\n\n> **Predict.** Is it?", None),
    ("predictions", "one", "", None, "cell goal: its **Predict.** is not followed by the code cell"),
    ("sliders", "two", "explore(", "print(", "2 sliders (explore): at least 3"),
    ("break_it", "broken", "", None, "no section '## Break it' with a code cell"),
    ("break_it", "break", "## Break it", "## Broken", "no section '## Break it'"),
    ("papers_table", "paper", "The paper's numbers beside ours", "Numbers", "no section \"The paper's numbers"),
    ("papers_table", "paper", "|---|--:|\n", "", "cell paper: no table under"),
    ("tutorials", "refuted", "", None, "no section '## What tutorials get wrong' with a claim"),
    ("tutorials", "wrong", '**"It is free."**', "It is free.", "no section '## What tutorials get wrong' with a"),
    ("exercises", "exercises", "## Exercises", "## Tasks", "no section '## Exercises'"),
    ("exercises", "exercises", "### Easy", "### Simple", "cell exercises: the exercises stand under ['Simple', 'Med"),
    (
        "exercises",
        "ex-2",
        "**2. Do it.**",
        "**3. Do it.**",
        "cell exercises: exercises with the numbers [1, 3, 3, 4, 5",
    ),
    ("exercises", "hint-2", "", None, 'cell stub-2: no cell hint("field.stride_and_start")'),
    ("exercises", "solution-5", "field.measure", "field.size", 'cell stub-5: no cell solution("field.measure")'),
    ("exercises", "stub-1", "", None, "the package's exercises of this chapter are ['field.size_of_stack'"),
    ("quiz", "quiz-title", "## Quiz", "## Questions", "no section '## Quiz'"),
    ("quiz", "quiz", ", Question(4)", "", "cell quiz-title: 1 quizzes with 3 questions: one, with four or five"),
    ("quiz", "quiz", "Quiz(", "show(", "cell quiz-title: 0 quizzes with 4 questions"),
    ("summary", "summary", "## Summary", "## End", "no section '## Summary'"),
    ("summary", "summary", "4. Four.\n", "", "cell summary: a summary of 4 lines: a list of five"),
    ("summary", "summary", "**Which one to choose.**", "", "cell summary: no word on what to choose when"),
    ("further_reading", "summary", "## Further reading", "## More", "no section '## Further reading'"),
    (
        "further_reading",
        "summary",
        "https://arxiv.org/abs/1412.7062",
        "01_segmentation",
        "cell summary: fewer than two",
    ),
    ("alt_texts", "one-read", "A ring.", "", "cell one-read: the picture _static/favicon.svg has no alt text"),
    ("links", "summary", "#break-it", "#brake-it", "cell summary: the link to #brake-it is dead: no heading"),
    (
        "links",
        "summary",
        "03_atrous_convolution.ipynb",
        "03_atrous.ipynb",
        "cell summary: the link to 03_atrous.ipynb is",
    ),
    (
        "links",
        "summary",
        "(https://arxiv.org/abs/1606.00915)",
        "(https://arxiv)",
        "cell summary: the link to https://arxiv",
    ),
    ("links", "three-read", "favicon.svg", "ring.png", "cell three-read: the link to _static/ring.png is dead"),
]


def spoil(chapter: Chapter, cell: str, before: str, after: str | None) -> None:
    here = [each for each in chapter.cells if each.id == cell or (cell == "*" and before in each.source)]
    assert here
    for each in here:
        assert before in each.source
        if after is None:
            chapter.cells.remove(each)
        else:
            each.source = each.source.replace(before, after)


@pytest.mark.parametrize(("name", "cell", "before", "after", "said"), SPOILED)
def test_what_is_missing_is_named_with_its_cell(
    made: Chapter, name: str, cell: str, before: str, after: str | None, said: str | None
) -> None:
    spoil(made, cell, before, after)
    found = list(RULES[name](made))
    if said is None:
        assert found == []
    else:
        assert any(said in problem for problem in found), problems(made)


def test_every_rule_was_seen_to_fail() -> None:
    elsewhere = {"order"}  # below
    assert {name for name, *_, said in SPOILED if said} | elsewhere == set(RULES)


def test_sections_in_another_order_are_named(made: Chapter) -> None:
    made.cells.insert(2, made.cells.pop(-1))
    (said,) = RULES["order"](made)
    assert said.startswith("sections stand as Summary, Break it, What tutorials get wrong, Exercises, Quiz: the order")


def test_a_picture_drawn_by_code_without_alt_text_is_named_in_each_form(made: Chapter) -> None:
    (cell,) = (each for each in made.cells if each.id == "first")
    wanted = "cell first: draws a picture and has no alt text of eight words or more in its metadata"
    for alt in ("", "Too few words to say anything."):
        cell.metadata["mystnb"]["image"]["alt"] = alt
        assert list(RULES["alt_texts"](made)) == [wanted]
    del cell.metadata["mystnb"]
    for source in ("_ = panels([image])", "plt.show()", "figure = panels([a])"):
        cell.source = source
        assert list(RULES["alt_texts"](made)) == [wanted]
    cell.source, figure = "draw()", {"text/plain": "<Figure size 600x300 with 1 Axes>"}
    assert list(RULES["alt_texts"](made)) == []
    cell.outputs = [nbformat.v4.new_output("display_data", figure)]
    assert list(RULES["alt_texts"](made)) == [wanted]
    cell.source = 'show(figure, alt="show and explore refuse to draw without a text")'
    assert list(RULES["alt_texts"](made)) == []


@pytest.mark.parametrize("key", HIDDEN)
def test_a_quiz_whose_code_is_seen_is_named(made: Chapter, key: str) -> None:
    (cell,) = (each for each in made.cells if each.id == "quiz")
    cell.metadata = {name: value for name, value in copy.deepcopy(HIDDEN).items() if name != key}
    (said,) = RULES["quiz"](made)
    assert said.startswith(f"cell quiz: its code shows the answers: hide it by the metadata {key}: ")


def test_a_broken_cell_and_an_outdated_output_are_named_with_file_and_cell(tmp_path: Path) -> None:
    make, printed = nbformat.v4.new_code_cell, nbformat.v4.new_output("stream", text="1\n")
    cells = [
        make("print(1)", outputs=[printed], execution_count=1),
        make("print(1); raise ValueError('on purpose')", outputs=[printed], execution_count=2),
        make("print(2)", outputs=[printed], execution_count=3),
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "09_made.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "09_made.ipynb", "-p", "no:cacheprovider", "-q", "-n", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    failed = re.findall(r"^FAILED (\w+\.ipynb)::Cell (\d)", done.stdout, re.MULTILINE)
    assert failed == [("09_made.ipynb", "1"), ("09_made.ipynb", "2")], done.stdout
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout)  # without colors
    assert "ValueError: on purpose" in said
    assert "1 passed" in done.stdout
