#!/bin/sh
# Build the sdist, build the wheel from that sdist, install the wheel in a clean environment outside the checkout
# and try it there. The clean environment borrows torch and the other dependencies from PYTHON's.
# --cpu leaves the CUDA sources out of the wheel, never out of the sdist.
set -eu
[ "${1:-}" != --cpu ] || export NEUROSENS_FAST_CUDA=0
python="$(pwd)/${PYTHON:-.venv/bin/python}"
checkout=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf dist
"$python" -m build --sdist --no-isolation --outdir dist . >"$work/sdist.log" 2>&1 || {
    cat "$work/sdist.log"
    exit 1
}
# Sources that the wheel's build here would not miss, such as those for CUDA on a machine without it.
tar -tzf dist/*.tar.gz >"$work/packed"
find csrc -type f | while read -r source; do
    grep -q "/$source\$" "$work/packed" || { echo "the sdist lacks $source; see MANIFEST.in" && exit 1; }
done
"$python" -m pip wheel -q --no-build-isolation --no-deps --wheel-dir dist dist/*.tar.gz

"$python" -m venv --without-pip "$work/clean"
purelib='import sysconfig; print(sysconfig.get_paths()["purelib"])'
"$python" -c "$purelib" >"$("$work/clean/bin/python" -c "$purelib")/borrowed.pth"
"$python" -m pip --python "$work/clean/bin/python" install -qq --no-deps --ignore-installed dist/*.whl
cp scripts/smoke_test.py "$work/"
cd "$work"
"$work/clean/bin/python" -P smoke_test.py --not-from "$checkout"
"$work/clean/bin/neurosens-fast" --help >/dev/null
"$work/clean/bin/neurosens-fast" bench --quick --quiet --suite kernels --only step # the benchmarks are in the wheel
cd "$checkout"
ls -l dist
