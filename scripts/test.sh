#!/usr/bin/env bash
# Run ruff (lint and format), mypy and pytest.
#
#   bash scripts/test.sh                      the tests that prove the product: all but those marked slow
#   bash scripts/test.sh --all                every test
#   bash scripts/test.sh --all --cov          with coverage, which must reach 90 %; takes a third longer
#   bash scripts/test.sh tests/norms          other arguments go to pytest; paths are relative to the checkout
#
# Makes .venv first if it is absent (Python 3.11 or newer, about 6 GB). All checks run even when one fails; the exit code is
# that of the first that failed.
set -euo pipefail

# shellcheck source=scripts/_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"

case ${1:-} in
  -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac

ensure_env sweep dev
cd "$root"

# Side by side, a file to a process at a time, long ones first (tests/conftest.py).
parallel=(-n auto --maxprocesses=8 --dist loadfile --no-loadscope-reorder)
marked=(-m "not slow")
cov=()
while [ "$#" -gt 0 ]; do
  case $1 in
    --all) marked=() ;;
    --cov) cov=(--cov --cov-report=term) ;;
    *) break ;;
  esac
  shift
done
# A part of the tests is not spread over processes, and cannot cover the whole package.
if [ "$#" -gt 0 ]; then
  parallel=() marked=()
elif [ "${#cov[@]}" -gt 0 ]; then
  cov+=(--cov-fail-under=90)
fi

failed=""
exit_code=0
check() {
  local name=$1 code=0
  shift
  printf '== %s\n' "$name"
  "$venv/bin/python" -m "$@" || code=$?
  if [ "$code" -ne 0 ]; then
    failed="$failed, $name (exit code $code)"
    if [ "$exit_code" -eq 0 ]; then exit_code=$code; fi
  fi
}

check "ruff check" ruff check .
check "ruff format" ruff format --check .
check "mypy" mypy
# Older versions of bash take an empty array for an unset variable.
check "pytest" pytest ${parallel[@]+"${parallel[@]}"} ${marked[@]+"${marked[@]}"} ${cov[@]+"${cov[@]}"} "$@"

if [ "$exit_code" -ne 0 ]; then printf 'test.sh: FAILED: %s\n' "${failed#, }" >&2; fi
exit "$exit_code"
