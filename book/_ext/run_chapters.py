"""Run the chapters whose outputs are not in the cache, several at once; Jupyter Book runs one after the other.

    python book/_ext/run_chapters.py _build 2     the folder built into, chapters at once

A chapter that fails is left to Jupyter Book, which runs it again and reports it.
"""

import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution


def run_chapters(root: Path, build: Path, workers: int) -> list[str]:
    """Return the names of the chapters that were run and stored in the cache of `build`."""
    settings = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["execute"]
    cache = get_cache(build / ".jupyter_cache")
    stored = []
    with ThreadPoolExecutor(workers) as pool:
        running = {}
        for file in sorted((root / "book").glob("*.ipynb"), reverse=True):  # the last chapter takes longest
            notebook = nbformat.read(file, as_version=4)
            try:
                cache.match_cache_notebook(notebook)
            except KeyError:
                run = pool.submit(
                    single_nb_execution, notebook, str(file.parent), settings["timeout"], settings["allow_errors"]
                )
                running[run] = file, notebook
        for run in as_completed(running):
            file, notebook = running[run]
            result = run.result()
            if result.err is None:
                bundle = CacheBundleIn(notebook, str(file), data={"execution_seconds": result.time})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                stored.append(file.name)
                print(f"{file.name}: {result.time:.0f} s", flush=True)
    return stored


if __name__ == "__main__":
    run_chapters(Path(__file__).resolve().parents[2], Path(sys.argv[1]), int(sys.argv[2]))
