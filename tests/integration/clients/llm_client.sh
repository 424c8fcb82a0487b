#!/usr/bin/env bash
# Simon Willison's `llm`: a model per profile in extra-openai-models.yaml. Needs OPENAI_BASE_URL and
# `llm` on the PATH. Answers are kept in the log of `llm`, the report of an unstreamed one with them.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LLM_USER_PATH=$work
model=$(curl --silent --show-error --fail "$OPENAI_BASE_URL/models" |
  grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)
cat >"$work/extra-openai-models.yaml" <<YAML
- model_id: adaptive
  model_name: "$model@adaptive"
  api_base: "$OPENAI_BASE_URL"
- model_id: steady
  model_name: "$model"
  api_base: "$OPENAI_BASE_URL"
  headers: {X-Entropy-Profile: steady}
- model_id: nonsense
  model_name: "$model"
  api_base: "$OPENAI_BASE_URL"
  headers: {X-Entropy-Profile: nonsense}
YAML

for profile in adaptive steady; do
  llm --model "$profile" --no-stream --option max_tokens 16 "Name three colors."
  llm logs --json --count 1 >"$work/log"
  grep -q "\"profile\": \"$profile\"" "$work/log"
  grep '"entropy_mean"' "$work/log"
  llm --model "$profile" --option max_tokens 16 "Name three colors."
done
if llm --model nonsense "Name three colors." 2>"$work/error"; then
  echo "llm: an unknown profile was not refused, so the header did not arrive"
  exit 1
fi
grep -q "unknown profile" "$work/error"
