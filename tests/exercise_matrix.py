"""Print what each exercise's check says to each kind of answer: `python tests/exercise_matrix.py`.

The same answers are tested, over twenty seeds, by test_exercises.py.
"""

import os

import torch
from exercise_answers import SECOND_ANSWERS

from deeplab_lesson.exercises import check
from deeplab_lesson.exercises.registry import EXERCISES

MARKS = {"correct": "✓", "wrong": "✗", "not attempted": "○"}


def main() -> None:
    os.environ["DEEPLAB_STATIC"] = "1"  # no progress is stored
    for name, exercise in EXERCISES.items():
        stub: dict[str, object] = {"torch": torch}
        exec(exercise.stub, stub)
        answers = [("reference", exercise.reference), ("stub", stub[exercise.function_name])]
        answers[1:1] = [("another right answer", other) for each, other in SECOND_ANSWERS if each == name]
        wrong = enumerate(exercise.misconceptions, 1)
        answers += [(f"misconception {number}", each.function) for number, each in wrong]
        print(f"\n{name}: {exercise.statement}")
        for kind, answer in answers:
            said = check(name, answer, seed=0)
            print(f"  {MARKS[said.outcome]} {kind}: {said.message if said.outcome == 'wrong' else said.outcome}")


if __name__ == "__main__":
    main()
