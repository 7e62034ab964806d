#!/bin/sh
# For the course's collector: checks the part 2 found in DSL_SUBMISSION_DIR into DSL_JUNIT_OUT.
root=$(cd "$(dirname "$0")/.." && pwd) && python=$root/.venv/bin/python && [ -x "$python" ] || python=python3
exec "$python" -P -m pytest "$root/tests/test_template.py" -m points --junitxml "$DSL_JUNIT_OUT" \
    --notebook "$(grep -l MyCNNModel "$DSL_SUBMISSION_DIR"/*.ipynb | head -n 1)"
