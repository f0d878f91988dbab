#!/usr/bin/env bash
# Runs the tests that need a SLURM cluster on a temporary one. If none can start, prints why and exits with 0.
set -Eeuo pipefail
cd "$(dirname "$0")/../.."
status=0
tests/slurm/cluster.sh up || status=$?
if [ $status = 77 ]; then exit 0; fi  # skipped; cluster.sh printed the reason
trap 'tests/slurm/cluster.sh down' EXIT
[ $status = 0 ] || exit $status
"${PYTHON:-python3}" -m pytest -m "slurm and not slow" tests/slurm "$@"
