#!/usr/bin/env bash
# Build the wheel, install it without extras into an empty environment, and use what a client gets.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/build"
"$work/build/bin/pip" install --quiet --require-hashes --requirement requirements/build.lock
"$work/build/bin/pip" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist" .

python3 -m venv "$work/client"
"$work/client/bin/pip" install --quiet "$work"/dist/entrostat-*.whl
cd "$work"
client/bin/pip check
client/bin/python - <<'PYTHON'
import sys
from importlib.metadata import version
from clients.entropy import controls, entropy_target
assert controls(entropy_target(1.0))["entropy"]["temperature"]["type"] == "entropy_target"
assert not {"torch", "vllm"} & set(sys.modules)
print("entrostat", version("entrostat"))
PYTHON
# The playground is in the wheel, with the licenses of what it bundles.
for name in index.html app.js app.css icon.svg NOTICE.txt; do
  test -s client/lib/python3*/site-packages/server/playground/$name
done
for command in "entrostat" "entrostat chat" "entrostat ask" "train-policy"; do
  client/bin/$command --help >/dev/null
done
# Commands that need an extra say which one, in one line and with exit code 2.
status=0
client/bin/entrostat serve 2>error.txt || status=$?
test "$status" = 2 && grep -q extra error.txt
echo "1 passed, 0 failed"
