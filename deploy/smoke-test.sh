#!/usr/bin/env bash
# Run an image as its own user and check that it becomes ready, answers with entropies, and finishes a
# stream after SIGTERM.
#
#   deploy/smoke-test.sh IMAGE [any serve flag]
#
# Run as root; needs buildah and curl. PORT (8000) is opened on loopback only. CACHE names a folder
# for /cache that is kept between runs; without it every run starts cold. START_LIMIT is in seconds.
set -euo pipefail

image=${1:?usage: $0 IMAGE [any serve flag]}
shift
port=${PORT:-8000}
start_limit=${START_LIMIT:-300}
length=100 # tokens; well inside the image's shutdown timeout of 30 s
url=http://127.0.0.1:$port
export BUILDAH_ISOLATION=chroot # no process namespace: the server's pid is the one seen here

scratch=$(mktemp -d)
cache=${CACHE:-$scratch/cache}
container=$(buildah from --pull-never "$image")
buildah config --volume /cache- "$container" # buildah mounts the image's own over ours otherwise

finish() {
  local code=$?
  [ ! -f "$cache/server.pid" ] || kill -TERM "$(cat "$cache/server.pid")" 2>/dev/null || true
  wait
  [ "$code" -eq 0 ] || tail -n 40 "$scratch/server.log" >&2 || true
  buildah rm "$container" >/dev/null
  rm -rf "$scratch"
}
trap finish EXIT

fail() {
  echo "FAILED: $*" >&2
  exit 1
}

of_image() {
  buildah inspect --type image --format "{{range $1}}{{println .}}{{end}}" "$image" | sed '/^$/d'
}

request() { # request BODY [curl option...]
  local body=$1
  shift
  curl --silent --show-error --max-time 120 --header "Content-Type: application/json" \
    --data "$body" "$@" "$url/v1/chat/completions"
}

! curl --silent --output /dev/null "$url/ready" || fail "something listens on port $port already"
mapfile -t command < <(of_image .Docker.Config.Entrypoint; of_image .Docker.Config.Cmd)
user=$(buildah inspect --type image --format '{{.Docker.Config.User}}' "$image")
mkdir -p "$cache"
chown "$user:0" "$cache"

command+=(--host 127.0.0.1 --port "$port" "$@") # the last of two equal flags counts
echo "== ${command[*]}"
started=$SECONDS
# shellcheck disable=SC2016 # expanded inside the container
buildah run --volume "$cache:/cache" "$container" -- \
  sh -c 'echo $$ >/cache/server.pid && exec "$@"' sh "${command[@]}" >"$scratch/server.log" 2>&1 &
job=$!
until curl --silent --fail --output "$scratch/ready" "$url/ready"; do
  kill -0 "$job" 2>/dev/null || fail "the server ended before it was ready"
  [ $((SECONDS - started)) -lt "$start_limit" ] || fail "not ready after $start_limit s"
  sleep 1
done
echo "== ready after $((SECONDS - started)) s: $(cat "$scratch/ready")"

server=$(cat "$cache/server.pid")
uid=$(awk '/^Uid:/ {print $2}' "/proc/$server/status")
[ "$uid" -ne 0 ] || fail "the server runs as root"
echo "== uid $uid"

mapfile -t health < <(of_image .Docker.Config.Healthcheck.Test)
buildah run "$container" -- "${health[@]:1:2}" "${health[3]//:8000/:$port}" || fail "health check"
echo "== health check passes"

echo "== a chat request with a trace"
message='"messages": [{"role": "user", "content": "Name three colors."}], "temperature": 0.8, "seed": 1'
request "{$message, \"max_tokens\": 4, \"entropy\": {\"trace\": \"tokens\"}}" | tee "$scratch/answer"
echo
grep --quiet '"entropy_mean":' "$scratch/answer" || fail "the answer has no entropy report"
grep --quiet '"tokens":\[{"entropy":' "$scratch/answer" || fail "the answer has no trace"

echo "== SIGTERM while a stream of $length tokens runs"
: >"$scratch/stream"
request "{$message, \"max_tokens\": $length, \"ignore_eos\": true, \"stream\": true,
  \"stream_options\": {\"include_usage\": true}, \"entropy\": {\"trace\": \"tokens\"}}" \
  --no-buffer >"$scratch/stream" &
stream=$!
until grep --quiet '"content":"[^"]' "$scratch/stream"; do
  kill -0 "$stream" 2>/dev/null || fail "the stream ended before its first token"
  sleep 0.05
done
before=$(grep --count '^data: ' "$scratch/stream")
kill -TERM "$server"
stopped=$SECONDS
end() { echo "$((SECONDS - stopped)) s after the signal: $(grep '^data: ' "$scratch/stream" | tail -n 3)"; }
wait "$stream" || fail "the stream broke off $(end)"
grep --quiet '"completion_tokens":'"$length" "$scratch/stream" || fail "the stream is short, $(end)"
grep --quiet '^data: \[DONE\]' "$scratch/stream" || fail "the stream has no end, $(end)"
echo "== $before chunks before the signal, $(grep --count '^data: ' "$scratch/stream") in all, [DONE]"

code=0
wait "$job" || code=$?
rm -f "$cache/server.pid"
echo "== the server ended $((SECONDS - stopped)) s after the signal, exit code $code"
[ "$code" -eq 0 ] || fail "a stop that was asked for is not a failure"
echo "PASSED"
