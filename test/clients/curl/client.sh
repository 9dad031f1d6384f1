#!/bin/sh
# curl against a running node, as docs/openai-api.md shows it.
# SKEIN_BASE_URL and SKEIN_MODEL say where and which.
set -eu

root=${SKEIN_BASE_URL%/v1}

# expect PATTERN TEXT: a basic regular expression that TEXT must match.
expect() {
	printf '%s\n' "$2" | grep -q -- "$1" || {
		printf 'expected %s in:\n%s\n' "$1" "$2" >&2
		exit 1
	}
}
get() { curl -sS -i --max-time 60 "$@"; }

expect '^HTTP/1.1 200' "$(get "$root/healthz")"
expect '^HTTP/1.1 200' "$(get "$root/readyz")"
expect "\"id\":\"$SKEIN_MODEL\"" "$(get "$SKEIN_BASE_URL/models")"
expect "\"id\":\"$SKEIN_MODEL\"" "$(get "$SKEIN_BASE_URL/models/$SKEIN_MODEL")"

# No Content-Type of JSON: curl -d sends that of a form.
chat="{\"model\":\"$SKEIN_MODEL\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello\"}],\"max_tokens\":8,\"temperature\":0"
answer=$(get "$SKEIN_BASE_URL/chat/completions" -d "$chat}")
expect '^HTTP/1.1 200' "$answer"
expect '^X-Request-Id: ' "$answer"
expect '"object":"chat.completion"' "$answer"
expect '"finish_reason":"\(stop\|length\)"' "$answer"

stream=$(get -N "$SKEIN_BASE_URL/chat/completions" -d "$chat,\"stream\":true}")
expect '^Content-Type: text/event-stream' "$stream"
expect '^data: {.*"delta":{"role":"assistant"' "$stream"
expect '^data: \[DONE\]' "$stream"

expect '"object":"text_completion"' "$(get "$SKEIN_BASE_URL/completions" -d "{\"model\":\"$SKEIN_MODEL\",\"prompt\":\"Once\"}")"

expect '^HTTP/1.1 400' "$(get "$SKEIN_BASE_URL/chat/completions" -d '{')"
expect '"code":"model_not_found"' "$(get "$SKEIN_BASE_URL/chat/completions" -d '{"model":"no-such","messages":[{"role":"user","content":"Hi"}]}')"
expect '"param":"messages"' "$(get "$SKEIN_BASE_URL/chat/completions" -d "{\"model\":\"$SKEIN_MODEL\",\"messages\":[]}")"
expect '"code":"unsupported_parameter"' "$(get "$SKEIN_BASE_URL/chat/completions" -d "$chat,\"response_format\":{\"type\":\"json_object\"}}")"
expect '^HTTP/1.1 405' "$(get "$SKEIN_BASE_URL/chat/completions")"
expect 'nearest endpoints are POST /v1/chat/completions' "$(get "$root/chat/completions" -d '{}')"
expect '"code":"origin_not_allowed"' "$(get "$SKEIN_BASE_URL/chat/completions" -H 'Origin: http://evil.test' -d "$chat}")"
expect '"code":"host_not_allowed"' "$(get "$SKEIN_BASE_URL/models" -H 'Host: evil.test')"
