# Each target is one or two plain commands; the README lists them for people without make.
PYTHON ?= python3
WORKERS ?= 2

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --requirement requirements.txt
	touch .venv/installed

run: .venv/installed
	PS2_PROFILE=quick .venv/bin/python tools/notebook.py ps2_theory.ipynb --out build/ps2_theory.ipynb
	PS2_PROFILE=quick .venv/bin/python tools/notebook.py ps2_eurosat.ipynb --out build/ps2_eurosat.ipynb
	@echo "Results: executed notebooks in build/, figures in build/figures/, numbers in build/report/results.json"

test: .venv/installed
	.venv/bin/python -m pytest

full: .venv/installed
	PS2_PROFILE=full .venv/bin/python tools/notebook.py ps2_theory.ipynb
	PS2_PROFILE=full EUROSAT_REQUIRED=1 .venv/bin/python tools/notebook.py ps2_eurosat.ipynb
	.venv/bin/python tools/pdf.py ps2_theory.ipynb ps2_eurosat.ipynb

pdf: .venv/installed
	.venv/bin/python tools/pdf.py ps2_theory.ipynb ps2_eurosat.ipynb

check: .venv/installed
	.venv/bin/python tools/check.py

grade: .venv/installed
	.venv/bin/python tools/grade.py $(SUBMISSION)

tune: .venv/installed
	PS2_PROFILE=full EUROSAT_REQUIRED=1 .venv/bin/python tools/tune.py $(WORKERS)

bench: .venv/installed
	PS2_PROFILE=full EUROSAT_REQUIRED=1 .venv/bin/python tools/bench.py

soak: .venv/installed
	.venv/bin/python -m pytest -m soak -rP

.PHONY: run test full pdf check grade tune bench soak
