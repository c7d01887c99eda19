#!/usr/bin/env bash
# Makes .venv with everything pinned. Installs a compiler, libgmp or python3-venv where they are missing and
# it may; otherwise says the one line to run. Called by `make`; doing it again is harmless.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv

find_python() {
  for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    [ -n "$candidate" ] || continue
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
    echo "$candidate"
    return
  done
  echo "setup: Python 3.11, 3.12 or 3.13 is needed and was not found; name one with PYTHON=/path/to/python3 make ..." >&2
  exit 1
}

python=$(find_python)
missing=()
command -v cc >/dev/null || command -v gcc >/dev/null || missing+=(gcc libc6-dev)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include") + "/Python.h")')
[ -f "$header" ] || missing+=(python3-dev)
if ! echo '#include <gmp.h>' | ${CC:-cc} -E -I/opt/homebrew/include -I/usr/local/include - >/dev/null 2>&1; then
  missing+=(libgmp-dev)
fi
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(uname)" = Darwin ]; then
    if command -v brew >/dev/null && cc --version >/dev/null 2>&1; then
      brew install gmp
    else
      echo "setup: run this, then try again:  xcode-select --install; brew install gmp" >&2
      exit 1
    fi
  elif command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    run=$([ "$(id -u)" = 0 ] && echo env || echo "sudo env")
    $run DEBIAN_FRONTEND=noninteractive apt-get update -qq
    $run DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  else
    echo "setup: run this, then try again:  sudo apt-get install -y ${missing[*]}" >&2
    exit 1
  fi
fi
if [ "$(uname)" = Darwin ]; then
  export CFLAGS="${CFLAGS:-} -I/opt/homebrew/include -I/usr/local/include"
  export LDFLAGS="${LDFLAGS:-} -L/opt/homebrew/lib -L/usr/local/lib"
fi

[ -x $venv/bin/python ] || "$python" -m venv $venv
echo "setup: installing pinned packages into $venv (a minute or two the first time)"
$venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
  -r requirements/dev.txt
# magika's model alone is wanted, not its dependency on a second ONNX Runtime
$venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
  -r requirements/models.txt
$venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
touch $venv/.ready
