#!/usr/bin/env bash
# Runs every check: ruff (lint and format), mypy and pytest.
#
#   bash scripts/test.sh                      all of it
#   bash scripts/test.sh --cov                the same with coverage, of which 90 % is asked for; takes a third longer
#   bash scripts/test.sh -m 'not slow'        arguments go to pytest; paths are relative to the checkout
#   bash scripts/test.sh -m long              what the default run leaves out
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

# All tests: side by side, a file to a process at a time, long ones first (tests/conftest.py).
whole=(-n auto --maxprocesses=8 --dist loadfile --no-loadscope-reorder)
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
# A part of the tests cannot cover the whole package.
if [ "${1:-}" = --cov ]; then
  shift
  if [ "$#" -eq 0 ]; then set -- --cov-fail-under=90 "${whole[@]}"; fi
  set -- --cov --cov-report=term "$@"
elif [ "$#" -eq 0 ]; then
  set -- "${whole[@]}"
fi
check "pytest" pytest "$@"

if [ "$exit_code" -ne 0 ]; then printf 'test.sh: FAILED: %s\n' "${failed#, }" >&2; fi
exit "$exit_code"
