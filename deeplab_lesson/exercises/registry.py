"""All exercises of the course, by name."""

import difflib

from deeplab_lesson.exercises import (
    chapter01,
    chapter02,
    chapter03,
    chapter04,
    chapter05,
    chapter06,
    chapter07,
    chapter08,
    chapter09,
    chapter10,
    chapter11,
)
from deeplab_lesson.exercises.exercise import Chapter, Exercise

CHAPTERS: tuple[Chapter, ...] = (
    chapter01.CHAPTER,
    chapter02.CHAPTER,
    chapter03.CHAPTER,
    chapter04.CHAPTER,
    chapter05.CHAPTER,
    chapter06.CHAPTER,
    chapter07.CHAPTER,
    chapter08.CHAPTER,
    chapter09.CHAPTER,
    chapter10.CHAPTER,
    chapter11.CHAPTER,
)
EXERCISES: dict[str, Exercise] = {each.name: each for chapter in CHAPTERS for each in chapter.exercises}


def find(name: str) -> Exercise:
    """Return the exercise of this name.

    Raises:
        ValueError: there is none; the text offers the nearest.
    """
    if name in EXERCISES:
        return EXERCISES[name]
    near = difflib.get_close_matches(name, EXERCISES, n=2, cutoff=0.75)
    near = near or [known for known in EXERCISES if name.rpartition(".")[2] in known.split(".")]
    offer = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(EXERCISES)}"
    raise ValueError(f"no exercise is called {name!r}: {offer}; progress() lists all")
