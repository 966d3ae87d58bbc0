#!/usr/bin/env bash
# Runs the small-batch sweep: BatchNorm against GroupNorm and others over batch sizes, with a table and a figure at the end.
#
#   bash scripts/sweep.sh                     the whole grid
#   bash scripts/sweep.sh --quick             a grid of 45 seconds
#   bash scripts/sweep.sh OVERRIDE...         more Hydra overrides, e.g. seed=0 'norm=batch_norm,group_norm' data=fashion_mnist
#
# Makes .venv first if it is absent (Python 3.11 or newer, about 6 GB). Results go below the folder you stand in.
set -euo pipefail

# shellcheck source=scripts/_env.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/_env.sh"

experiment=small_batch
overrides=()
for argument in "$@"; do
  case $argument in
    --quick) experiment=small_batch_quick ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) overrides+=("$argument") ;;
  esac
done

ensure_env sweep
exec "$venv/bin/normzoo" train -m "experiment=$experiment" ${overrides[@]+"${overrides[@]}"}
