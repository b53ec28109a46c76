#!/usr/bin/env bash
# All tests, with coverage: those that only compute beside those that wait for real time, so that two cores are used.
# The former give way (nice): nothing that they do disturbs the latter. $1: the directory of pytest and coverage.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=$1
# Of the chart's, the metrics are scraped from nodes that run: their patience is real.
chart=(tests/chart/test_chart_{alerts,cleanup,commands,docs,looking,package,parsers,releases,rendering,upgrade,values}.py)
computing=("${chart[@]}" tests/image/test_{image_layout,release}.py tests/properties tests/unit/{follow,kademlia,members,observe,oci})
said=$(mktemp)
trap 'rm -f "$said"' EXIT
rm -f .coverage*

COVERAGE_FILE=.coverage-computing nice -n 19 "$bin/pytest" --cov --cov-report= "${computing[@]}" >"$said" 2>&1 &
beside=$!
COVERAGE_FILE=.coverage-main "$bin/pytest" --cov --cov-report= "${computing[@]/#/--ignore=}" &
main=$!
stop() {
  kill -TERM "$beside" "$main" 2>/dev/null
  wait
  exit 130
}
trap stop INT TERM
wait "$main"
waited=$?
wait "$beside"
computed=$?
cat "$said"
"$bin/coverage" combine --quiet .coverage-main .coverage-computing
"$bin/coverage" report --skip-covered --fail-under=85
covered=$?
echo "tests that wait: $waited, tests that compute: $computed, coverage: $covered (0 is well; failures are listed above)"
exit $((waited || computed || covered))
