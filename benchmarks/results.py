"""How a measurement is written down."""

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from deeplab_lesson import __version__
from deeplab_lesson.data.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]


def write_result(path: Path, command: str, seconds: float, values: dict[str, Any]) -> None:
    """Write `values` with what someone needs to measure them again."""
    record = {
        "command": command,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds, 1),
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "versions": {"deeplab_lesson": __version__, "python": platform.python_version(), "torch": torch.__version__},
        **values,
    }
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    print(f"written: {path}", file=sys.stderr)


def device_name() -> str:
    """Name the GPU or, without one, the CPU and its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    """Name the commit that is measured; "+" where files differ from it."""
    try:
        name = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "deeplab_lesson", "benchmarks")
        return name + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout.strip()
