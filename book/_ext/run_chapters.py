"""Run the chapters whose outputs are not in the cache, several at once; Jupyter Book runs one after the other.

    python book/_ext/run_chapters.py _build 2     the folder built into; chapters at once, or what else pytest -n takes

A chapter that fails is left to Jupyter Book, which runs it again and reports it.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution

ALONE = {"11_train.ipynb"}  # it trains on all cores, and the page tells its time


def run_chapters(root: Path, build: Path, workers: int) -> None:
    """Run what is missing in the cache of `build`, and store it there."""
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["execute"]
    cache = get_cache(build / ".jupyter_cache")
    waiting = {}
    for file in sorted((root / "book").glob("*.ipynb")):
        notebook = nbformat.read(file, as_version=4)
        try:
            cache.match_cache_notebook(notebook)
        except KeyError:
            waiting[file] = notebook

    def run(files: set[Path], at_once: int) -> None:
        with ThreadPoolExecutor(at_once) as pool:
            running = {
                pool.submit(
                    single_nb_execution, waiting[file], str(file.parent), settings["timeout"], settings["allow_errors"]
                ): file
                for file in sorted(files)
            }
            for done in as_completed(running):
                file, result = running[done], done.result()
                if result.err is None:
                    bundle = CacheBundleIn(waiting[file], str(file), data={"execution_seconds": result.time})
                    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                    print(f"{file.name}: {result.time:.0f} s", flush=True)

    alone = {file for file in waiting if file.name in ALONE}
    run(set(waiting) - alone, workers)
    run(alone, 1)


def chapters_at_once(workers: str) -> int:
    """Read what pytest -n takes, too."""
    if workers in ("auto", "logical"):
        return os.cpu_count() or 1
    if not workers.isdecimal():
        raise SystemExit(f'WORKERS is "{workers}"; allowed: a whole number, auto or logical; fix: make book WORKERS=2')
    return max(1, int(workers))


if __name__ == "__main__":
    run_chapters(Path(__file__).resolve().parents[2], Path(sys.argv[1]), chapters_at_once(sys.argv[2]))
