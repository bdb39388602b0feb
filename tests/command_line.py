"""What a command gave when it ran in the tests' own process (the fixture `command` in conftest.py)."""

from dataclasses import dataclass


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[str]:
        """Of what `benchmark` prints, the lines below the machine and the table's head."""
        return self.out.splitlines()[2:]


def assert_explained(done: Done, *parts: str, started: bool = False) -> None:
    """Exit code 2, and one line instead of a trace, which holds the parts; nothing printed, unless it had started."""
    assert done.code == 2, done
    assert started == bool(done.out), done
    assert done.err.startswith("deeplab-lesson: ")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.err
    for part in parts:
        assert part in done.err
