#!/usr/bin/env bash
# Run the clients of the how-to against a running server:
#   OPENAI_BASE_URL=http://127.0.0.1:8000/v1 tests/integration/clients/run.sh
# CONFIDENCE and ABSTENTION name artifacts of the server, for the clients that ask for a verdict.
# Installs what they need into a throwaway folder, or into CLIENT_ENVIRONMENTS, which is kept. Needs
# curl, node with npm, and PYTHON (python3).
set -uo pipefail

: "${OPENAI_BASE_URL:?set it to the base URL of a running server, with its /v1}"
export OPENAI_BASE_URL
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
environments=${CLIENT_ENVIRONMENTS:-$work}
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

in_node() ( # in_node SCRIPT; a subshell, for its cd
  mkdir -p "$environments/node" && cd "$environments/node" || exit
  cp "$here/package.json" "$here/package-lock.json" "$here/$1" . || exit
  [ -d node_modules ] || npm ci --no-audit --no-fund --loglevel error || exit
  node -e 'for (const name of Object.keys(require("./package.json").dependencies))
    console.log(name, JSON.parse(require("fs").readFileSync(`node_modules/${name}/package.json`)).version)'
  node "$1"
)

in_python() { # in_python FOLDER PACKAGE COMMAND ...
  local folder=$environments/$1
  if [ ! -d "$folder" ]; then
    "${PYTHON:-python3}" -m venv "$folder" && "$folder/bin/pip" install --quiet "$2" || return
  fi
  echo "$2"
  PATH="$folder/bin:$PATH" "${@:3}"
}

check curl bash "$here/curl_client.sh"
check node in_node node_client.mjs
check vercel-ai in_node vercel_client.mjs
check langchain in_python langchain langchain-openai==1.7.4 python "$here/langchain_client.py"
check langchain-decisions in_python langchain langchain-openai==1.7.4 \
  python "$here/langchain_decisions.py"
check litellm in_python litellm litellm==1.110.2 python "$here/litellm_client.py"
check llama-index in_python llamaindex llama-index-llms-openai-like==0.8.1 \
  python "$here/llamaindex_client.py"
check llm in_python llm llm==0.36 bash "$here/llm_client.sh"
exit "$failed"
