"""The exercises of the course: `check` an answer, ask for a `hint`, open the `solution`, see the `progress`."""

from deeplab_lesson.exercises.feedback import check, hint, solution
from deeplab_lesson.exercises.progress import progress

__all__ = ["check", "hint", "progress", "solution"]
