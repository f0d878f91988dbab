#!/usr/bin/env bash
# Tests the distributions: builds and checks them, installs the wheel into a new environment, and uses it from a directory
# outside of the checkout.
set -Eeuo pipefail
python=$(cd "$(dirname "${BUILD_PYTHON:?Python that builds the wheel}")" && pwd)/$(basename "$BUILD_PYTHON")
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$checkout"
"$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m build --wheel --outdir "$work/direct" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
"$python" -m twine check --strict "$work"/dist/*
if [ -e .git ]; then  # git lists what belongs into them
  "$python" tests/distributions.py . "$work"/dist/*.tar.gz "$work"/dist/*.whl "$work"/direct/*.whl
fi
# Large dependencies come from the building environment. The package and its config come from the wheel.
"$python" -m venv "$work/venv"
"$python" -c 'import site; print(site.getsitepackages()[0])' >"$work/site.txt"
target=$("$work/venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')
"$work/venv/bin/python" -m pip install --quiet --no-deps "$work"/dist/*.whl
"$work/venv/bin/python" -m pip uninstall --quiet --yes setuptools  # of venv, which would hide the newer one of the dependencies
# A .pth file adds the path without processing the .pth files in it, so the editable install is not importable.
cat "$work/site.txt" >"$target/zz-dependencies.pth"
"$work/venv/bin/python" -m pip check

mkdir "$work/else where"
cd "$work/else where"
"$work/venv/bin/python" - "$checkout" <<'PY'
import sys, pathlib, wgan_sweep
from wgan_sweep.config.schema import conf_dir
for path in (pathlib.Path(wgan_sweep.__file__), conf_dir()):
    assert not path.is_relative_to(sys.argv[1]), path
assert (conf_dir() / "config.yaml").exists()
PY
"$work/venv/bin/python" - <<'PY'
import re
from importlib.metadata import metadata
description = metadata("wgan-sweep").json["description"]
assert "make demo" in description and ".github/guide/choices.md" in description
lost = re.findall(r"!\[.*|\]\((?!https?:).*", description)
assert not lost, f"a package index cannot show {lost}"
PY
tar -tzf "$work"/dist/*.tar.gz >"$work/sdist.txt"
for file in README.md tests/test_docs.py .github/guide/choices.md .github/demo.png; do grep -q "/$file\$" "$work/sdist.txt"; done
tiny="train.steps=2 train.batch_size=8 train.n_critic=1 model.dim=4 scorer=none tracker=none device=cpu"
"$work/venv/bin/wgan-sweep" --help >/dev/null
"$work/venv/bin/wgan-sweep" -m div.k=1,2 $tiny
"$work/venv/bin/python" -m wgan_sweep -m div.k=1,2 $tiny >again.txt 2>&1
[ "$(grep -c 'nothing left to do' again.txt)" = 2 ]
"$work/venv/bin/wgan-score" --help >/dev/null
"$work/venv/bin/wgan-report" runs >table.txt
grep -q '^| div.k' table.txt
[ "$("$work/venv/bin/wgan-runs" list --json | grep -c '"status": "done"')" = 2 ]
"$work/venv/bin/wgan-report" runs --format html --output page.html
grep -q vegaEmbed page.html
"$work/venv/bin/wgan-report" runs --claims | grep -q undecided
[ "$(find . -name record.json | wc -l)" = 2 ]
"$work/venv/bin/wgan-sweep" --init own >/dev/null
"$work/venv/bin/wgan-sweep" --config-dir own experiment=own loss=drift seed=0 train.steps=2 device=cpu "runs=$work/own-runs"
[ "$(find "$work/own-runs" -name record.json | wc -l)" = 1 ]
(cd / && "$work/venv/bin/wgan-sweep" "runs=$work/from-root" $tiny)
[ "$(find "$work/from-root" -name record.json | wc -l)" = 1 ]
echo "wheel-smoke: the wheel works from $(pwd) and from /"
