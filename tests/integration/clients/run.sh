#!/usr/bin/env bash
# Run the clients of the how-to against a running server:
#   OPENAI_BASE_URL=http://127.0.0.1:8000/v1 tests/integration/clients/run.sh
# Installs what they need into a throwaway folder. Needs curl, node with npm, and PYTHON (python3).
set -uo pipefail

: "${OPENAI_BASE_URL:?set it to the base URL of a running server, with its /v1}"
export OPENAI_BASE_URL
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

check() { # check NAME COMMAND ...
  if "${@:2}" >"$work/output" 2>&1; then
    echo "PASS $1"
  else
    echo "FAIL $1"
    failed=1
  fi
  sed "s/^/     /" "$work/output"
}

in_node() ( # a subshell, for its cd
  mkdir "$work/node" && cd "$work/node" || exit
  npm install --no-audit --no-fund --loglevel error openai || exit
  cp "$here/node_client.mjs" . && node node_client.mjs
)

in_python() { # in_python FOLDER PACKAGE COMMAND ...
  "${PYTHON:-python3}" -m venv "$work/$1" || return
  "$work/$1/bin/pip" install --quiet "$2" || return
  PATH="$work/$1/bin:$PATH" "${@:3}"
}

check curl bash "$here/curl_client.sh"
check node in_node
check langchain-openai in_python langchain langchain-openai python "$here/langchain_client.py"
check llm in_python llm llm bash "$here/llm_client.sh"
exit "$failed"
