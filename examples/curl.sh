#!/bin/sh
# Every endpoint with curl. Usage: examples/curl.sh FILE [URL]
set -e
file=$1
url=${2:-http://127.0.0.1:8000}
key=${WHISPER_ROUTER_SERVE_API_KEY:-none}
ask() { curl -sS --fail-with-body -H "Authorization: Bearer $key" "$@"; echo; }

ask "$url/v1/models"
ask "$url/v1/audio/transcriptions" -F file=@"$file"                                     # the default policy
ask "$url/v1/audio/transcriptions" -F file=@"$file" -F model=strong                     # always the strong arm
ask "$url/v1/audio/transcriptions" -F file=@"$file" -F model=routed-0.42                # a threshold of one's own
ask "$url/v1/audio/transcriptions" -F file=@"$file" -F response_format=verbose_json     # with the route
ask "$url/v1/audio/transcriptions" -F file=@"$file" -F response_format=srt
ask "$url/v1/decide" -F file=@"$file"                                                   # the route alone
ask "$url/ready"
ask "$url/metrics" | grep '^whisper_router_segments_total'
