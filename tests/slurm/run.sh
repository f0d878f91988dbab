#!/usr/bin/env bash
# The tests that need a SLURM cluster, on one of their own; where it cannot be had, the reason is printed.
set -Eeuo pipefail
cd "$(dirname "$0")/../.."
status=0
tests/slurm/cluster.sh up || status=$?
if [ $status = 77 ]; then exit 0; fi  # skipped, and said why
trap 'tests/slurm/cluster.sh down' EXIT
[ $status = 0 ] || exit $status
"${PYTHON:-python3}" -m pytest -m "slurm and not slow" tests/slurm "$@"
