#!/usr/bin/env bash
# Makes .venv with everything pinned: `setup.sh demo` what a network and its models need, `setup.sh` the developers' tools too.
# Where an NVIDIA GPU is, CUDA's libraries as well. Installs python3-venv where it is missing and it may; otherwise
# says the one line to run. VENV names another folder than .venv. Called by `make`; doing it again is harmless.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
pins=${1:-dev}

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

has_nvidia_gpu() {
  [ "$(uname -sm)" = "Linux x86_64" ] && command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q GPU
}

# Eleven thousand files are not compiled in advance: most are never read in.
install() {
  $venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile "$@"
}

python=$(find_python)
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    run=$([ "$(id -u)" = 0 ] && echo env || echo "sudo env")
    $run DEBIAN_FRONTEND=noninteractive apt-get update -qq
    $run DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
  else
    echo "setup: run this, then try again:  sudo apt-get install -y python3-venv" >&2
    exit 1
  fi
fi

[ -x $venv/bin/python ] || "$python" -m venv $venv
echo "setup: installing pinned packages into $venv (a minute or two the first time)"
if ! install --require-hashes -r "requirements/$pins.txt"; then
  # docs/how-to/install.md says where that is so.
  echo "setup: if a package failed to compile, run this, then try again:  sudo apt-get install -y gcc python3-dev" >&2
  exit 1
fi
# magika's model alone is wanted, not its dependency on a second ONNX Runtime
install --require-hashes -r requirements/models.txt
# docs/decisions/0035: without a compiler in place of fastecdsa, which libp2p imports and nothing calls
install --no-build-isolation ./requirements/fastecdsa
install --no-build-isolation --editable .
if has_nvidia_gpu; then
  echo "setup: there is an NVIDIA GPU: installing CUDA's libraries (about 2.1 GB)"
  install --require-hashes -r requirements/cuda.txt
fi
touch $venv/.ready-demo
[ "$pins" = demo ] || touch $venv/.ready
