"""Exercises: right answers of any kind pass, wrong ones are told what is wrong, and no answer breaks the notebook."""

import _thread
import contextlib
import importlib.util
import inspect
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from exercise_answers import SECOND_ANSWERS
from nbformat.v4 import new_code_cell, new_notebook, new_output

from deeplab_lesson.exercises import chapter03, check, checking, hint, progress, solution, time_limit
from deeplab_lesson.exercises import progress as progress_function
from deeplab_lesson.exercises.checking import find_problem
from deeplab_lesson.exercises.draw import Draw
from deeplab_lesson.exercises.exercise import is_untouched
from deeplab_lesson.exercises.judging import same_answer
from deeplab_lesson.exercises.registry import CHAPTERS, EXERCISES

ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(20)
progress_module = sys.modules[progress_function.__module__]

every_exercise = pytest.mark.parametrize("name", EXERCISES)
every_misconception = pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name in EXERCISES for number in range(len(EXERCISES[name].misconceptions))]
)


@pytest.fixture(autouse=True)
def _fresh_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_STATIC", "1")  # nothing is read from or written to a home folder
    monkeypatch.setattr(progress_module, "_this_session", {})


@pytest.fixture
def _in_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time limit: coverage does not see the thread that has one."""
    monkeypatch.setattr(checking, "run_within", lambda seconds, work: work(time_limit.Printed()))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def defined(source: str, name: str) -> Callable[..., Any]:
    """A function as a chapter would define it: with torch imported, and nothing else."""
    names: dict[str, Any] = {"torch": torch}
    exec(compile(source, "<cell>", "exec"), names)
    return names[name]


# ---- the matrix ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_in_this_thread")
@every_exercise
def test_the_reference_is_correct_as_a_chapter_would_define_it(name: str) -> None:
    exercise = EXERCISES[name]
    function = defined(exercise.source, exercise.function_name)
    assert {check(name, function, seed=seed).outcome for seed in SEEDS} == {"correct"}


@pytest.mark.usefixtures("_in_this_thread")
@pytest.mark.parametrize(("name", "function"), SECOND_ANSWERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_second_answer_written_differently_is_correct(name: str, function: Callable[..., Any]) -> None:
    for seed in range(3) if name == "field.measure" else SEEDS:
        assert repr(check(name, function, seed=seed)) == f"[correct] {name}"


def test_every_exercise_has_a_second_answer_three_misconceptions_and_a_hint() -> None:
    assert {name for name, _ in SECOND_ANSWERS} == set(EXERCISES)
    for name, exercise in EXERCISES.items():
        assert len(exercise.misconceptions) >= 3, name
        explanations = [each.explanation for each in exercise.misconceptions]
        assert len(set(explanations)) == len(explanations), name
        assert exercise.hints, name
        assert exercise.statement.endswith("."), name
    assert all(4 <= len(chapter.exercises) <= 6 for chapter in CHAPTERS)


@every_exercise
def test_the_stub_is_not_attempted_and_has_the_references_signature(name: str) -> None:
    exercise = EXERCISES[name]
    stub = defined(exercise.stub, exercise.function_name)
    assert inspect.signature(stub) == inspect.signature(defined(exercise.source, exercise.function_name))
    assert stub.__doc__ is not None
    assert inspect.getdoc(stub) == inspect.getdoc(exercise.reference)
    feedback = check(name, stub)
    assert feedback.outcome == "not attempted"
    assert name == f"{name.split('.')[0]}.{stub.__name__}"
    assert stub.__name__ in feedback.message
    assert repr(feedback) == repr(check(name, stub)), "nbval compares it"


@pytest.mark.usefixtures("_in_this_thread")
@every_misconception
def test_a_misconception_is_wrong_each_time_and_hears_its_own_explanation(name: str, number: int) -> None:
    exercise = EXERCISES[name]
    misconception = exercise.misconceptions[number]
    for seed in SEEDS:
        feedback = check(name, misconception.function, seed=seed)
        assert feedback.outcome == "wrong", f"seed {seed}"
        others = [each.explanation for each in exercise.misconceptions if each is not misconception]
        assert misconception.explanation in feedback.message
        assert not any(each in feedback.message for each in others)
        assert feedback.message.startswith("for ")
        assert "you " in feedback.message


TWISTS: dict[str, Callable[[Any], Any]] = {
    "one too many": lambda answer: answer + 1,
    "one too few": lambda answer: answer - 1,
    "mirrored": lambda answer: answer.flip(0) if isinstance(answer, torch.Tensor) else answer[::-1],
    "shifted": lambda answer: answer.roll(1) if isinstance(answer, torch.Tensor) else [*answer[1:], answer[0]],
    "transposed": lambda answer: answer.T,
    "a number changed": lambda answer: [*answer[:-1], answer[-1] + 1],
    "one more": lambda answer: [*answer, answer[-1]],
    "one less": lambda answer: answer[:-1],
    "a sum": lambda answer: answer.sum() if isinstance(answer, torch.Tensor) else sum(answer),
    "half": lambda answer: answer / 2,
}
ONLY_ANOTHER_RIGHT_ANSWER = {  # (exercise, twist)
    ("field.choose_rates", "mirrored"),
    ("field.choose_rates", "shifted"),
    ("atrous.convolve", "transposed"),
    ("fcn.overlap_counts", "mirrored"),
    ("fcn.bilinear_kernel", "mirrored"),
    ("fcn.bilinear_kernel", "transposed"),
    ("fcn.transposed_convolution", "transposed"),
}


def possible_twists(name: str) -> list[str]:
    exercise = EXERCISES[name]
    example = exercise.reference(*exercise.draw(Draw(0)))
    found = []
    for twist in TWISTS:
        with contextlib.suppress(TypeError, AttributeError):  # a number has no mirror
            TWISTS[twist](example)
            found.append(twist)
    return [twist for twist in found if (name, twist) not in ONLY_ANOTHER_RIGHT_ANSWER]


@pytest.mark.filterwarnings("ignore:The use of `x.T` on tensors")
@every_exercise
def test_an_answer_mirrored_shifted_transposed_or_off_by_one_is_wrong(name: str) -> None:
    reference = EXERCISES[name].reference
    twists = possible_twists(name)
    assert len(twists) >= 3
    for twist in twists:
        for seed in range(4):
            feedback = check(name, lambda *inputs, twist=twist: TWISTS[twist](reference(*inputs)), seed=seed)
            assert feedback.outcome == "wrong", twist


@every_exercise
def test_inputs_are_new_in_each_call_and_leave_the_chapters_random_numbers_alone(name: str) -> None:
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state()
    seen = []
    for _ in range(2):
        calls: list[str] = []
        check(name, lambda *inputs, calls=calls: calls.append(str(inputs)))
        seen.append(calls)
    assert seen[0] != seen[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_failing_input_that_is_shown_is_the_smallest() -> None:
    tried = []

    def wrong(rates: list[int]) -> list[int]:
        tried.append(rates)
        return []

    message = check("atrous.touched_positions", wrong, seed=1).message
    shown = json.loads(re.findall(r"\[.*?\]", message)[0])
    assert len(shown) + sum(shown) == min(len(rates) + sum(rates) for rates in tried)
    assert len(tried) == 24


def test_a_reference_with_one_constant_changed_fails_its_own_check() -> None:
    for name, exercise in EXERCISES.items():
        broken = defined(exercise.source, exercise.function_name)
        original = broken.__code__
        for constant in (value for value in original.co_consts if type(value) is int):
            wrong = tuple(value + 1 if value is constant else value for value in original.co_consts)
            broken.__code__ = original.replace(co_consts=wrong)
            if (name, constant) == ("field.measure", 2):
                continue  # asks for the output at a third of the map: its field is as large
            problem = find_problem(exercise, broken, seed=0, seconds=5)
            assert problem is not None, f"{name} with {constant + 1} for {constant}"


# ---- messages ------------------------------------------------------------------------------------------------------


def test_a_message_names_the_input_the_answer_and_the_property() -> None:
    def answer(kernel_size: int, rate: int) -> int:
        return 5 if (kernel_size, rate) == (3, 2) else 99

    messages = {check("atrous.effective_kernel", answer, seed=seed).message for seed in SEEDS}
    sentence = re.compile(
        r"for kernel_size=(\d), rate=(\d) you return 99; the kernel touches (\d) pixels? and spans (\d+)\."
    )
    for message in messages:
        found = sentence.fullmatch(message)
        assert found, message
        kernel_size, rate, touched, span = map(int, found.groups())
        assert (touched, span) == (kernel_size, (kernel_size - 1) * rate + 1)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"None \(is a `return` missing\?\) where a whole number"),
        (2.0, r"2\.0, a float, where a whole number \(int\) is due: // divides without a rest"),
        (True, "True, a bool, where a whole number"),
        ("5", "a str where a whole number"),
        (torch.tensor([1, 2]), r"a tensor of int64, shape \[2\], where a whole number"),
        (object(), "a object where a whole number"),
    ],
)
def test_a_wrong_type_is_named(returned: Any, message: str) -> None:
    assert re.search(message, check("atrous.effective_kernel", lambda kernel_size, rate: returned).message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda right: right.tolist(), "a list where a torch.Tensor is due"),
        (lambda right: right[None], r"the shape \[1, \d\]; it must be \[\d\]"),
        (lambda right: right * float("nan"), "you return nan"),
        (lambda right: right + 1, r"you return -?\d+ at position 0, where -?\d+ is due"),
        (lambda right: right.to("meta"), "that cannot be read"),
        (lambda right: right.to_sparse(), "cannot be read|at position"),
    ],
)
def test_a_wrong_tensor_is_described(change: Callable[[torch.Tensor], Any], message: str) -> None:
    feedback = check("atrous.convolve", lambda *inputs: change(chapter03.convolve(*inputs)))
    if "sparse" in inspect.getsource(change) and feedback.outcome == "correct":
        return
    assert re.search(message, feedback.message), feedback


def test_other_numbers_and_sequences_of_the_right_value_are_accepted() -> None:
    right = EXERCISES["atrous.effective_kernel"].reference
    for kind in (np.int64, np.int32, torch.tensor):
        assert check("atrous.effective_kernel", lambda k, r, kind=kind: kind(right(k, r))).outcome == "correct"
    offsets = EXERCISES["atrous.touched_positions"].reference
    for kind in (tuple, np.array, torch.tensor):
        assert check("atrous.touched_positions", lambda rates, kind=kind: kind(offsets(rates))).outcome == "correct"


def test_what_is_not_the_function_itself_is_explained() -> None:
    assert "give the function itself, without parentheses" in check("atrous.effective_kernel", 5).message
    message = check("atrous.effective_kernel", lambda size: size).message
    assert message == "your function takes size; it is called with kernel_size, rate: keep the first line of the stub"
    assert check("atrous.effective_kernel", lambda k, r, more=0: (k - 1) * r + 1).outcome == "correct"


@pytest.mark.parametrize(
    "body",
    [
        "...",
        "pass",
        "return",
        "return None",
        "raise NotImplementedError",
        "'''Doc.'''",
        "raise NotImplementedError('later')",
    ],
)
def test_any_empty_body_is_not_attempted(body: str) -> None:
    assert is_untouched(defined(f"def f(kernel_size, rate):\n    {body}", "f"))


@pytest.mark.parametrize(
    "body",
    [
        "return 0",
        "return 'text'",
        "raise ValueError",
        "print()",
        "x = 1",
        "if rate: raise NotImplementedError",
        "return rate",
    ],
)
def test_a_body_that_does_something_is_an_attempt(body: str) -> None:
    function = defined(f"def f(kernel_size, rate):\n    {body}", "f")
    assert not is_untouched(function)
    if body == "if rate: raise NotImplementedError":
        assert "a part of it is still to be written" in check("atrous.effective_kernel", function).message


# ---- functions that mean harm --------------------------------------------------------------------------------------


def raises_value_error(kernel_size: int, rate: int) -> int:
    raise ValueError("<b>no</b> & " + "x" * 1000)


def leaves_python(kernel_size: int, rate: int) -> int:
    sys.exit(3)


def interrupts(kernel_size: int, rate: int) -> int:
    raise KeyboardInterrupt


def calls_itself(kernel_size: int, rate: int) -> int:
    return calls_itself(kernel_size, rate)


class EvilError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raises_evil(kernel_size: int, rate: int) -> int:
    raise EvilError


class EvilValue:
    def __eq__(self, other: object) -> bool:
        raise SystemExit

    def __repr__(self) -> str:
        raise SystemExit

    __hash__ = None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (raises_value_error, r"raises ValueError: <b>no</b> & x+ \.\.\., in line \d+ of its cell"),
        (leaves_python, r"raises SystemExit: 3, in line \d+ of its cell; return the answer"),
        (interrupts, "raises KeyboardInterrupt"),
        (calls_itself, "raises RecursionError: maximum recursion.*; it calls itself without end"),
        (raises_evil, "raises EvilError, in line"),
        (lambda kernel_size, rate: EvilValue(), "you return a EvilValue where a whole number"),
        (lambda kernel_size, rate: [EvilValue()], "you return a list where a whole number"),
        (lambda kernel_size, rate: (yield 1), "you return a generator where"),
        (type("Evil", (), {"__call__": lambda self, *inputs: 1 / 0})(), "raises ZeroDivisionError: division by zero"),
    ],
)
def test_nothing_a_function_raises_or_returns_breaks_the_notebook(function: Any, message: str) -> None:
    feedback = check("atrous.effective_kernel", function)
    assert feedback.outcome == "wrong"
    assert re.search(message, feedback.message), feedback


def test_html_escapes_the_readers_text() -> None:
    html = check("atrous.effective_kernel", raises_value_error)._repr_html_()
    assert "<b>" not in html
    assert "&lt;b&gt;no&lt;/b&gt; &amp; x" in html


def test_printing_shows_on_the_page_only_with_a_wrong_answer(capfd: pytest.CaptureFixture[str]) -> None:
    def prints(kernel_size: int, rate: int) -> int:
        print("taps:", kernel_size)
        print("a warning", file=sys.stderr)
        return (kernel_size - 1) * rate + 1

    assert repr(check("atrous.effective_kernel", prints)) == "[correct] atrous.effective_kernel"
    wrong = check("atrous.effective_kernel", lambda k, r: prints(k, r) + 1, seed=0)
    assert re.search(r"for kernel_size=(\d), .* It printed: taps: \1\na warning$", wrong.message)
    assert capfd.readouterr() == ("", "")


def test_an_input_changed_in_place_is_named() -> None:
    def scales(signal: torch.Tensor, kernel: torch.Tensor, rate: int) -> torch.Tensor:
        answer = chapter03.convolve(signal, kernel, rate)
        kernel.mul_(2)
        return answer

    assert "changes its input kernel: work on a copy" in check("atrous.convolve", scales).message

    def empties(rates: list[int]) -> list[int]:
        answer = chapter03.touched_positions(rates)
        rates.clear()
        return answer

    assert "changes its input rates" in check("atrous.touched_positions", empties).message


def loops(kernel_size: int, rate: int) -> int:
    while True:
        pass


def loops_and_prints(kernel_size: int, rate: int) -> int:
    while True:
        print("again")


def loops_and_catches(kernel_size: int, rate: int) -> int:
    while True:
        try:
            kernel_size += 1
        except BaseException:
            kernel_size = 0


@pytest.mark.parametrize("function", [loops, loops_and_prints, loops_and_catches])
def test_an_endless_loop_is_stopped(function: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_limit, "GRACE", 60)  # however loaded the machine
    problem = find_problem(EXERCISES["atrous.effective_kernel"], function, seconds=0.3)
    assert problem is not None
    assert re.fullmatch(
        r"for kernel_size=\d, rate=\d your function does not return within 0.3 seconds: does a loop never end\?",
        problem,
    )


LEFT_BEHIND = """
import threading
from deeplab_lesson.exercises import checking, registry, time_limit

begun, end = threading.Lock(), threading.Lock()
begun.acquire(), end.acquire()

def waits_in_c(kernel_size, rate):
    begun.release()
    end.acquire()

time_limit.GRACE = 0.1
time_limit._wait = lambda done, seconds: not begun.acquire()  # out of time once it waits
print(checking.find_problem(registry.EXERCISES["atrous.effective_kernel"], waits_in_c))
"""


def test_a_call_into_c_is_left_behind_and_says_so() -> None:
    """In a process without coverage: while a stop waits for the call, Python 3.11 holds up every traced thread."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", LEFT_BEHIND], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "it could not be stopped and still runs: restart the notebook's kernel" in done.stdout


@pytest.fixture
def interrupts_arrive() -> Iterator[None]:
    """A shell that starts pytest in the background has it ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts_arrive")
def test_the_limit_is_ten_seconds_and_an_interrupt_reaches_the_reader() -> None:
    assert time_limit.SECONDS == 10
    begin = time.monotonic()

    def interrupted(kernel_size: int, rate: int) -> int:
        _thread.interrupt_main()
        return loops(kernel_size, rate)

    with pytest.raises(KeyboardInterrupt):
        check("atrous.effective_kernel", interrupted)
    assert time.monotonic() - begin < 8


@pytest.mark.slow
def test_tracing_inside_an_answer_does_not_crash_the_process() -> None:
    """With torch 2.11 built for CUDA and no GPU, the second tracing crashes if the first was in a thread that ended."""
    code = (
        "from deeplab_lesson import receptive_field; from deeplab_lesson.exercises import check\n"
        "for _ in range(3): print(check('field.measure', lambda net, h, w: receptive_field(net, (h, w)).size, seed=0))"
    )
    environment = {**os.environ, "DEEPLAB_STATIC": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[correct] field.measure\n" * 3


# ---- hints, solutions, names, progress -----------------------------------------------------------------------------


class Tags(HTMLParser):
    """Fails on HTML whose elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@every_exercise
def test_solution_and_hints_are_collapsed_and_the_text_tells_how_to_see_them(name: str) -> None:
    exercise = EXERCISES[name]
    shown = solution(name)
    assert shown.source == exercise.source
    html = shown._repr_html_()
    assert Tags(html).seen.count("details") == 1
    assert "<details><summary>" in html
    assert "open" not in html.replace("open_", "")
    assert f"def {exercise.function_name}" in html
    assert not any(each.function.__name__ in html for each in exercise.misconceptions if "lambda" not in str(each))
    assert repr(shown) == f'the solution is shown by print(solution("{name}").source)'
    assert Tags(hint(name)._repr_html_()).seen.count("details") == len(exercise.hints)
    assert repr(hint(name)).startswith(f"hint 1 of {len(exercise.hints)}: {exercise.hints[0]}")
    assert repr(hint(name, len(exercise.hints))).endswith(exercise.hints[-1])


def test_the_card_of_each_outcome_is_closed_html_without_scripts_or_ids() -> None:
    cards = [
        check("atrous.effective_kernel", chapter03.effective_kernel),
        check("atrous.effective_kernel", lambda kernel_size, rate: kernel_size),
        check("atrous.effective_kernel", lambda kernel_size, rate: None),
        hint("atrous.effective_kernel"),
        solution("atrous.effective_kernel"),
        progress(),
    ]
    for card in cards:
        html = card._repr_html_()
        assert not {"script", "style"} & set(Tags(html).seen)
        assert " id=" not in html
    assert "✓ Correct" in cards[0]._repr_html_()
    assert "✗ Wrong" in cards[1]._repr_html_()
    assert "○ Not attempted" in cards[2]._repr_html_()


@pytest.mark.parametrize("function", [lambda name: check(name, len), hint, solution])
def test_an_unknown_name_offers_the_nearest(function: Callable[[str], Any]) -> None:
    with pytest.raises(ValueError, match=r"'atrous.efective_kernel': did you mean 'atrous.effective_kernel'\?"):
        function("atrous.efective_kernel")
    with pytest.raises(ValueError, match=r"did you mean 'field.measure'\?"):
        function("aspp.measure")
    with pytest.raises(ValueError, match=r"'xyz': there are .*, atrous.effective_kernel, .*; progress\(\) lists all"):
        function("xyz")


def test_a_hint_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hint 9 of field.measure: allowed are 1 to 2"):
        hint("field.measure", 9)


def test_progress_counts_and_what_was_correct_stays_correct() -> None:
    assert "Chapter 3, atrous convolution: 0 of 6 correct" in repr(progress())
    check("atrous.effective_kernel", chapter03.effective_kernel)
    check("atrous.effective_kernel", lambda k, r: 0)
    check("atrous.convolve", lambda signal, kernel, rate: signal)
    text = repr(progress())
    assert text.startswith("Chapter 1, segmentation: 0 of 5 correct\n  ○ segmentation.palette_id: not attempted")
    assert "\nChapter 3, atrous convolution: 1 of 6 correct\n  ✓ atrous.effective_kernel: correct" in text
    assert "  ✗ atrous.convolve: wrong" in text
    assert "  ○ field.measure: not attempted" in text
    assert "<strong>Chapter 3, atrous convolution: 1 of 6 correct</strong>" in progress()._repr_html_()


def test_progress_is_kept_over_sessions_but_not_while_the_book_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new" / "progress.json"
    monkeypatch.setenv("DEEPLAB_PROGRESS", str(file))
    check("atrous.effective_kernel", chapter03.effective_kernel)
    assert not file.exists(), "DEEPLAB_STATIC=1"
    monkeypatch.delenv("DEEPLAB_STATIC")
    check("atrous.valid_weights", chapter03.valid_weights)
    monkeypatch.setattr(progress_module, "_this_session", {})
    assert "atrous.valid_weights: correct" in repr(progress())
    monkeypatch.setenv("DEEPLAB_STATIC", "1")
    assert "atrous.valid_weights: not attempted" in repr(progress())


@pytest.mark.parametrize("content", ["", "[]", '{"atrous.convolve": 3}', "\x00"])
def test_a_progress_file_that_is_damaged_counts_as_empty(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "progress.json"
    file.write_text(content)
    monkeypatch.delenv("DEEPLAB_STATIC")
    monkeypatch.setenv("DEEPLAB_PROGRESS", str(file))
    assert "correct\n  ○" in repr(progress())
    assert check("atrous.effective_kernel", chapter03.effective_kernel).outcome == "correct"
    assert json.loads(file.read_text()) == {"atrous.effective_kernel": "correct"}


def test_progress_that_cannot_be_written_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("DEEPLAB_STATIC")
    monkeypatch.setenv("DEEPLAB_PROGRESS", str(tmp_path / "file" / "progress.json"))
    assert check("atrous.effective_kernel", chapter03.effective_kernel).outcome == "correct"
    assert "✓ atrous.effective_kernel" in repr(progress())


# ---- notebooks -----------------------------------------------------------------------------------------------------

solve = load(ROOT / "book/_ext/solve.py")


def result(shown: object) -> list[Any]:
    data = {"text/plain": repr(shown), "text/html": shown._repr_html_()}
    return [new_output("execute_result", data, execution_count=1)]


def chapter(name: str = "atrous.effective_kernel") -> nbformat.NotebookNode:
    """A chapter of one exercise, with the outputs of an untouched stub."""
    exercise = EXERCISES[name]
    stub = defined(exercise.stub, exercise.function_name)
    asked, shown = f'check("{name}", {exercise.function_name})', f'solution("{name}")'
    cells = [
        new_code_cell(
            "import torch\nfrom deeplab_lesson.exercises import check, progress, solution", execution_count=1
        ),
        new_code_cell(exercise.stub, metadata={"tags": [f"exercise:{name}"]}, execution_count=1),
        new_code_cell(asked, outputs=result(check(name, stub)), execution_count=1),
        new_code_cell(shown, outputs=result(solution(name)), execution_count=1),
        new_code_cell("progress()", outputs=result(progress()), execution_count=1),
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return new_notebook(cells=cells, metadata=kernel)


def test_a_solved_chapter_holds_the_reference_and_expects_correct() -> None:
    committed = chapter()
    solved = solve.solve_notebook(committed)
    assert solved.cells[1].source == EXERCISES["atrous.effective_kernel"].source
    assert solved.cells[2].outputs[0].data["text/plain"] == "[correct] atrous.effective_kernel"
    assert "1 of 6 correct" in solved.cells[4].outputs[0].data["text/plain"]
    assert committed == chapter() | {"cells": committed.cells}, "the committed one stays as it is"
    assert "not attempted" in committed.cells[2].outputs[0].data["text/plain"]
    assert list(solve.problems(committed)) == []


@pytest.mark.parametrize(
    ("cell", "change", "message"),
    [
        (1, {"source": "def effective_kernel(k):\n    ..."}, r"cell 1 \(.*\): differs from the stub of atrous.eff"),
        (1, {"metadata": {"tags": []}}, r"cell 2 .* no cell before it has the tag exercise:atrous.effective_kernel"),
        (1, {"metadata": {"tags": ["exercise:atrous.efective"]}}, r"cell 1 .* did you mean 'atrous.effective_kernel'"),
        (2, {"source": "1"}, r"the stub of atrous.effective_kernel is never checked"),
        (
            2,
            {"source": 'check("atrous.effective_kernel", len)'},
            r"cell 2 .* must check one function, effective_kernel",
        ),
        (2, {"outputs": []}, r"cell 2 .* its output must be stored"),
    ],
)
def test_a_chapter_whose_exercise_is_not_in_order_is_named_with_its_cell(
    cell: int, change: dict[str, Any], message: str
) -> None:
    notebook = chapter()
    notebook.cells[cell].update(nbformat.from_dict(change))
    assert re.search(message, "\n".join(solve.problems(notebook)))


def test_the_book_has_no_exercise_that_is_not_in_order() -> None:
    for file in sorted((ROOT / "book").glob("*.ipynb")):
        found = list(solve.problems(nbformat.read(file, as_version=4)))
        assert not found, f"{file.name}: {found[0]}"


def test_the_command_writes_solved_copies_beside_what_chapters_read(tmp_path: Path) -> None:
    book, out = tmp_path / "book", tmp_path / "out"
    (book / "results").mkdir(parents=True)
    (book / "results" / "a.json").write_text("{}")
    nbformat.write(chapter(), book / "03.ipynb")
    nbformat.write(new_notebook(), book / "01.ipynb")
    assert solve.main([str(out), str(book / "03.ipynb"), str(book / "01.ipynb")]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["03.ipynb", "results"]
    assert solve.main(["--check", str(book / "03.ipynb")]) == 0
    broken = chapter()
    broken.cells[1].source += "\n    return 3"
    nbformat.write(broken, book / "03.ipynb")
    assert solve.main(["--check", str(book / "03.ipynb")]) == 1
    with pytest.raises(SystemExit):
        solve.main([str(book / "03.ipynb"), str(book / "01.ipynb")])


def test_a_solved_chapter_runs_what_its_exercises_build_on_and_no_more() -> None:
    sources = {
        "magic": "%pip list",
        "base": "import math\nunit = 2",
        "method": "class Helper:\n    def double(self, unit):\n        return [base for base in range(unit)]",
        "rest": "print(len('slow'))",
        "stub": "def solved(x):\n    rest = Helper().double(x)\n    return rest",
        "more": "def unused(math):\n    return math",
        "check": "check('a', solved, unit)",
    }
    cells = [new_code_cell(source, id=name, execution_count=1) for name, source in sources.items()]
    cells[4].metadata.tags = ["exercise:a"]
    small = solve.only_exercises(new_notebook(cells=cells))
    assert [cell.id for cell in small.cells] == ["magic", "base", "method", "stub", "check"]


def test_nbval_fails_on_a_changed_output_and_on_a_broken_reference_and_on_nothing_else(tmp_path: Path) -> None:
    committed = chapter()
    more = chapter("atrous.valid_weights")
    committed.cells[4:] = more.cells[1:]  # setup, stub, check, solution, stub, check, solution, progress
    solved = solve.solve_notebook(committed)
    committed.cells[2].outputs[0].data["text/plain"] += "!"
    assert "return rows * columns" in solved.cells[4].source
    solved.cells[4].source = solved.cells[4].source.replace("rows * columns", "rows + columns")
    for name, notebook in (("committed", committed), ("solved", solved)):
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval",
        str(tmp_path),
        "-p",
        "no:cacheprovider",
        "-q",
        "-rf",
        "-n",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DEEPLAB_STATIC": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    failed = re.findall(r"^FAILED (\w+)\.ipynb::Cell (\d)", done.stdout, re.MULTILINE)
    assert failed == [("committed", "2"), ("solved", "5"), ("solved", "7")], done.stdout
    assert "13 passed" in done.stdout


def test_same_answer_tells_shapes_and_types_apart() -> None:
    assert same_answer(torch.ones(2), torch.ones(2).double())
    assert not same_answer(torch.ones(2), torch.ones(3))
    assert not same_answer(torch.ones(2), [1, 2])
    assert same_answer((1, [2]), [1, (2,)])
    assert not same_answer(EvilValue, 3)
