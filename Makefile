# Each target is one or two plain commands; the README lists them for people without make.
PYTHON ?= python3
WORKERS ?= 2
SUBMISSION ?= ps2_eurosat.ipynb
NOTEBOOKS := ps2_theory.ipynb ps2_eurosat.ipynb
PY := .venv/bin/python
OLD := sys.exit("Python 3.11 or newer is needed; name it with make PYTHON=...")

help:                   ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## ?/\t/' | expand -t 12

.venv/installed: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or $(OLD)'
	[ -x $(PY) ] || $(PYTHON) -m venv .venv
	$(PY) -m pip install --requirement requirements.txt --constraint constraints.txt \
		|| { echo "The packages could not be installed: is there a network?" >&2; exit 1; }
	touch .venv/installed

run: .venv/installed    ## both notebooks into build/: the record replayed, else a quick run
	$(PY) -m tools.notebook
test: .venv/installed   ## ruff and the tests
	$(PY) -m ruff check . && $(PY) -m ruff format --check .
	$(PY) -m pytest
full: .venv/installed   ## train everything on all images and write the record (hours on two cores)
	PS2_PROFILE=full $(PY) -m tools.notebook
	$(PY) -m tools.pdf $(NOTEBOOKS)
pdf: .venv/installed    ## both notebooks as PDF into report/
	$(PY) -m tools.pdf $(NOTEBOOKS)
check: export OLD_FILE := $(value BEFORE)
check: export NEW_FILE := $(value AFTER)
check: .venv/installed  ## prove the record, or compare two notebooks: BEFORE=FILE AFTER=FILE
	$(PY) -m tools.check $${OLD_FILE:+"$$OLD_FILE"} $${NEW_FILE:+"$$NEW_FILE"}
grade: export FILE := $(value SUBMISSION)# as it is typed: quotes, brackets and $ mean nothing
grade: .venv/installed  ## points that a program can give: make grade SUBMISSION=FILE
	$(PY) -m tools.grade -- "$$FILE"
classroom: export FOLDER := $(value CLONES)
classroom: .venv/installed  ## grade many teams, and show each question over all: CLONES=FOLDER
	$(PY) -m tools.classroom -- "$$FOLDER"
tune: .venv/installed   ## the grid search of a full run in several processes: WORKERS=2
	PS2_PROFILE=full $(PY) -m tools.tune "$(WORKERS)"
bench: .venv/installed  ## measure speed into report/benchmark.md
	$(PY) -m tools.bench
soak: .venv/installed   ## all tests, with many more cases
	$(PY) -m pytest -m "soak or not soak" --hypothesis-profile soak -rP
clean:                  ## remove build/ and what the tools leave
	rm -rf build .pytest_cache .hypothesis .ruff_cache __pycache__ */__pycache__

.PHONY: help run test full pdf check grade classroom tune bench soak clean
