#!/usr/bin/env bash
# Every kind of call over REST, with curl alone: bash deploy/clients/curl.sh [PROMPT]
# SERVER and MODEL say where, METRICS=no leaves out the last call (a server without monitoring.config).
set -euo pipefail
prompt=${1:-中国}
server=${SERVER:-http://localhost:8501}
url=$server/v1/models/${MODEL:-quickstart}

# A string as JSON: quotation marks, backslashes and line ends spelled out.
json() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  printf '"%s"' "${text//$'\t'/\\t}"
}
text=$(json "$prompt")

ask() {
  printf '\n# %s\n' "$1"
  shift
  curl --silent --show-error --fail-with-body --max-time 60 "$@"
}

ask "is it there, and which versions?" "$url"
ask "a prompt, rows, the defaults of the model" -d "{\"instances\": [$text]}" "$url:predict"
ask "two prompts, columns" -d "{\"inputs\": [$text, $text]}" "$url:predict"
ask "the version that carries a label" -d "{\"instances\": [$text]}" "$url/labels/stable:predict"

# REST knows no defaults: all inputs of generate must be there, each with a value for each prompt.
ask "the knobs, columns" -d "{\"signature_name\": \"generate\", \"inputs\": {
  \"prompts\": [$text], \"max_new_tokens\": [20], \"min_new_tokens\": [0], \"temperature\": [0.7], \"top_k\": [40], \"top_p\": [0.95],
  \"min_p\": [0.0], \"typical_p\": [1.0], \"epsilon_cutoff\": [0.0], \"eta_cutoff\": [0.0], \"repetition_penalty\": [1.1],
  \"presence_penalty\": [0.0], \"frequency_penalty\": [0.0], \"no_repeat_ngram_size\": [0], \"seed\": [1]}}" "$url:predict"
ask "how likely are these texts?" -d "{\"signature_name\": \"score\", \"inputs\": {\"texts\": [$text]}}" "$url:predict"
ask "what comes next?" -d "{\"signature_name\": \"next_token\", \"instances\": [{\"prompts\": $text, \"k\": 5}]}" "$url:predict"
if [ "${METRICS:-yes}" = yes ]; then
  metrics=$(ask "requests so far, for Prometheus" "$server/monitoring/prometheus/metrics")
  printf '\n'
  grep -E '^# requests|request_count' <<<"$metrics" || true
fi
