# DeepLab, Step by Step. `make help` lists what there is. Works with GNU make 3.81 (macOS) and 4.
# Everything happens in .venv, made with $(PYTHON): `make book PYTHON=python3.12`. Paths are relative, so that
# the folder's own path may hold spaces. A folder that cannot be written builds elsewhere: `make book INTO=/tmp/deeplab`.

PYTHON ?= python3
WORKERS ?= 2
PORT ?= 8000
INTO ?= .

ifneq ($(words $(INTO)),1)
  $(error INTO is "$(INTO)"; allowed: one path without spaces; fix: make book INTO=/tmp/deeplab)
endif

PLACE := $(filter-out ./,$(INTO)/)
VENV := $(PLACE).venv
BUILD := $(PLACE)_build
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
MARKS :=

ifneq ($(PLACE),) # what tools keep for their next run
  export COVERAGE_FILE := $(PLACE).coverage
  export RUFF_CACHE_DIR := $(PLACE).ruff_cache
  export MYPY_CACHE_DIR := $(PLACE).mypy_cache
  export HYPOTHESIS_STORAGE_DIRECTORY := $(PLACE).hypothesis
  export PYTEST_ADDOPTS := -o cache_dir=$(PLACE).pytest_cache
endif

# The arguments of pip in environment.yml, exactly as they stand there.
PIP_PART = sed -n '/^ *- pip:/,$$s/^      - //p' environment.yml

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup book browser chromium test test-all unit notebooks nbval serve lint bench clean release-check print-pip-part

help:
	@echo "make book           set up what is missing, run the chapters, build the HTML, print its path"
	@echo "make test           everything that CI runs: lint, types, tests with coverage, book, notebooks"
	@echo "make test-all       the same, and the slow tests"
	@echo "make setup          only .venv and what is installed in it"
	@echo "make lint           ruff and mypy"
	@echo "make unit           pytest with coverage"
	@echo "make nbval          run every chapter and compare its stored outputs"
	@echo "make browser        build the book and look at every page in Chromium"
	@echo "make notebooks      run every chapter and store its outputs, normalized: after an edit, before a commit"
	@echo "make serve          build the book and serve it at http://localhost:$(PORT)/ (PORT=...)"
	@echo "make bench          list the benchmarks"
	@echo "make clean          remove what was built (not .venv)"
	@echo "make ... INTO=/tmp/deeplab   .venv and what is built go there: for a folder that cannot be written"
	@echo "make release-check  build wheel and sdist and check them; refuses while the address is a placeholder"

# $(1): the interpreter to look at. $(2): what to do about it.
define check_python
"$(1)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "Python seen: $$("$(1)" --version 2>&1 || true) ($(1))"; \
	  echo "allowed: 3.11, 3.12 or 3.13"; \
	  echo "fix: $(2)make $(or $(firstword $(MAKECMDGOALS)),book) PYTHON=python3.12"; \
	  exit 1; }
endef

setup: $(VENV)/.installed

$(PY):
	@$(call check_python,$(PYTHON),)
	@echo "== making $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)

# A .venv without the stamp is one whose setup did not finish: it goes on from there.
$(VENV)/.installed: pyproject.toml constraints.txt environment.yml | $(PY)
	@$(call check_python,$(PY),rm -r $(VENV) && )
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip
	@echo "== installing into $(VENV) (minutes and some gigabytes the first time)"
	@set -f; $(PIP) install --quiet $$($(PIP_PART))
	@$(PY) -c 'import pydensecrf.densecrf' 2>/dev/null || { $(install_pydensecrf); } >$(VENV)/pydensecrf.log 2>&1 || \
	  echo "pydensecrf: could not be built here, its comparisons are skipped"
	@touch $(VENV)/.installed

# Plain up to Python 3.12. The Cython that it asks for cannot do 3.13; a newer one can, outside of pip's build
# isolation.
define install_pydensecrf
if $(PY) -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; \
	  then $(PIP) install -c constraints.txt pydensecrf2; \
	  else $(PIP) install -c constraints.txt Cython setuptools wheel && \
	    $(PIP) install -c constraints.txt --no-build-isolation pydensecrf2; fi
endef

print-pip-part:
	@$(PIP_PART)

# fresh.py drops executed notebooks when the package or the data changed: the cache looks at code cells only.
# After a failed build the pages are dropped too: Sphinx would not read them again, and find nothing wrong.
book: setup
	@echo "== book"
	@$(PY) book/_ext/fresh.py $(BUILD)
	@OMP_WAIT_POLICY=passive $(PY) book/_ext/run_chapters.py $(BUILD) "$(WORKERS)"
	@OMP_WAIT_POLICY=passive $(VENV)/bin/jupyter-book build -W -n --keep-going --path-output $(INTO) . || \
	  { rm -rf $(BUILD)/.doctrees; exit 1; }
	@$(PY) -c 'import pathlib; p = pathlib.Path("$(BUILD)/html/book/index.html"); print(p); print(p.resolve().as_uri())'

# The browser is the system's. As root on Debian it is installed; elsewhere a loud line says that nobody looked.
find_chromium := { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null

chromium:
	@if ! $(find_chromium) && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium"; mkdir -p $(BUILD); \
	  { apt-get update && apt-get install -y --no-install-recommends chromium; } >$(BUILD)/chromium.log 2>&1 || \
	    tail -n 3 $(BUILD)/chromium.log; fi

browser: book chromium
	@echo "== browser"
	@if $(find_chromium); \
	  then DEEPLAB_BOOK=$(BUILD)/html $(PY) -m pytest -p no:cacheprovider -n $(WORKERS) -rs tests/test_browser.py; \
	  else echo "!! NO BROWSER: THE PAGES WERE NOT TESTED. Install chromium (Debian: apt-get install chromium)."; fi

test: lint unit book browser nbval
	@echo "== all passed"

test-all: MARKS := -m "slow or not slow"
test-all: test

lint: setup
	@echo "== ruff"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@echo "== mypy"
	@$(PY) -m mypy

# One thread a worker: with more, the workers' threads wait for each other.
unit: setup chromium
	@echo "== pytest"
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n $(WORKERS) --cov --cov-report=term $(MARKS)

# Each chapter as it stands, where exercises answer "not attempted", and its exercises with the solutions in the stubs.
# loadfile: the cells of a notebook must stay together. passive: threads of two kernels share the cores politely.
nbval: setup
	@echo "== notebooks"
	@$(PY) book/_ext/solve.py $(BUILD)/solved book/*.ipynb
	@OMP_WAIT_POLICY=passive DEEPLAB_STATIC=1 \
	  $(PY) -m pytest --nbval book $(BUILD)/solved -p no:cacheprovider -n $(WORKERS) --dist loadfile

notebooks: setup
	@$(PY) book/_ext/normalize.py book/*.ipynb

serve: book
	@$(PY) -m http.server --directory $(BUILD)/html $(PORT)

bench: setup
	@echo "Benchmarks, each run by: $(PY) -m benchmarks.NAME"
	@for file in benchmarks/[a-z]*.py; do \
	  if [ -e "$$file" ]; then echo "  $$(basename "$$file" .py)"; else echo "  (none yet)"; fi; done

clean:
	rm -rf $(BUILD) dist
	rm -rf $(addprefix $(PLACE),.pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*)
	find deeplab_lesson tests benchmarks book -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The placeholder's owner and name are the same word. It is not spelled out: this file needs no address.
release-check: setup
	@name=deeplab-lesson; if grep -q "github.com/$$name/$$name" pyproject.toml; then \
	  echo "release-check: pyproject.toml still holds the placeholder address; write the real one (docs/maintaining.md)"; \
	  exit 1; fi
	@rm -rf dist
	@$(PY) -m build --outdir dist .
	@$(PY) -m twine check --strict dist/*
