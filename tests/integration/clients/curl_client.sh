#!/usr/bin/env bash
# curl and nothing else. Needs OPENAI_BASE_URL.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
model=$(curl --silent --show-error --fail "$OPENAI_BASE_URL/models" |
  grep -o '"id": *"[^"]*"' | head -n 1 | cut -d '"' -f 4)

ask() { # ask MODEL STREAM [curl option ...]
  curl --silent --show-error --fail-with-body --no-buffer "${@:3}" "$OPENAI_BASE_URL/chat/completions" \
    --header "Content-Type: application/json" \
    --header "Authorization: Bearer ${OPENAI_API_KEY:-none}" \
    --data @- <<JSON
{
  "model": "$1",
  "stream": $2,
  "max_completion_tokens": 16,
  "messages": [{"role": "user", "content": "Name three colors."}],
  "entropy": {"temperature": {"type": "entropy_target", "entropy_target": 1.0}, "trace": "tokens"}
}
JSON
}

expect() { # expect FILE PATTERN
  grep -qE "$2" "$1" || { echo "curl: no $2 in:"; cat "$1"; exit 1; }
}

ask "$model" false >"$work/answer"
expect "$work/answer" '"law": ?"entropy_target"'
expect "$work/answer" '"entropy_mean": ?[0-9]'
expect "$work/answer" '"tokens": ?\[\{"entropy": ?[0-9]'
echo "curl, one answer: $(grep -oE '"entropy_mean": ?[0-9.]+' "$work/answer")"

ask "$model" true >"$work/stream"
expect "$work/stream" '"tokens": ?\[\{"entropy": ?[0-9]'
tail -n 5 "$work/stream" >"$work/end" # the summary comes right before [DONE]
expect "$work/end" '"entropy_mean": ?[0-9]'
expect "$work/end" '^data: \[DONE\]'
echo "curl, stream: $(grep -oE '"entropy_mean": ?[0-9.]+' "$work/end")"

ask "$model@adaptive" false --dump-header "$work/headers" >"$work/answer"
expect "$work/headers" '^[Xx]-[Ee]ntropy-[Pp]rofile: adaptive'
expect "$work/answer" '"law": ?"entropy_target"' # the body wins over the profile
