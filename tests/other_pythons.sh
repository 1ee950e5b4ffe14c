#!/usr/bin/env bash
# The parts that need no torch, under every other Python that is supported and at hand: all files compile, and the
# environments pass their tests. (torch itself is tested under one Python; its wheels for the others are large.)
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 3.10 3.11 3.12 3.13; do
    # A shim of pyenv's may stand there with no interpreter behind it.
    python=$(command -v "python$version" || true)
    if [[ -z "$python" ]] || ! "$python" -c "" 2>/dev/null; then
        python=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python 2>/dev/null | tail -n 1 || true)
    fi
    if [[ -z "$python" ]]; then
        echo "$version: not here"
        continue
    fi
    "$python" -m venv "$folder/$version"
    run="$folder/$version/bin/python"
    "$run" -m pip install --quiet --disable-pip-version-check --upgrade "setuptools>=77" wheel pip
    "$run" -m pip install --quiet --disable-pip-version-check "numpy" "gymnasium>=1.1" pillow pytest hypothesis
    "$run" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .
    "$run" -m compileall -q fwagents envs train benchmarks tests
    # Beside the checkout's own fwagents folder, the installed one would not be seen.
    mkdir "$folder/$version/tests" && cp -r tests/__init__.py tests/envs "$folder/$version/tests"
    (cd "$folder/$version" && "$run" -m pytest -q -p no:cacheprovider tests/envs)
    echo "$version: passed"
done
