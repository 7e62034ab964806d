#!/bin/sh
# The course's collector runs this in a copy of the repository: it grades the part 2 that
# it finds in the clone at DSL_SUBMISSION_DIR, and writes JUnit XML to DSL_JUNIT_OUT.
: "${DSL_JUNIT_OUT:?}"
cd "$(dirname "$0")" || exit

# No report is worse than one with an error. This one stays if nothing better replaces it.
message="The grading did not come to its end, or python3 does not start."
cat > "$DSL_JUNIT_OUT" <<END
<testsuites>
<testsuite name="part 2" tests="1" errors="1" failures="0" skipped="0">
<testcase classname="run.sh" name="$message"><error message="$message"/></testcase>
</testsuite>
</testsuites>
END

unset PYTHONSAFEPATH  # so that tools/ is found here
exec python3 -m tools.collect
