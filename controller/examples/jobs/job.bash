#!/usr/bin/env bash
# A job in bash with curl: measures how full the root file system is, and sends a file, an event and the result.
#
# To make it yours, replace the part "measure" and keep `post`. Without a cluster: start `batch-job-controller mock` in one
# terminal, paste the export lines that it prints into another, and run this there.
#
# The controller sets CALLBACK_SERVICE_RESULT_URL, …_FILE_URL and …_EVENT_URL in every container. A node has succeeded when
# its pod ended with 0 and its result arrived, so this ends with 1 where the result or the file could not be delivered.
set -euo pipefail

tries=10       # with pauses of 1, 2, 4 … 60 s: about four minutes, for a controller that restarts
limit_s=300    # one request, from its beginning to its answer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# post URL AGAIN CURL-OPTIONS…: posts, and tries again where that may help: no connection, or an answer that says "later".
# AGAIN says whether it may be sent twice: yes for results and files (the second replaces the first), no for events (there
# would be two), which are then only tried again where the first surely was not taken.
post() {
  local url=$1 again=$2 kind=${1##*/} pause=1 try status exit_code wait
  shift 2
  for ((try = 1; ; try++)); do
    exit_code=0
    status=$(curl --silent --show-error --max-time "$limit_s" --dump-header "$work/headers" --output "$work/answer" \
      --write-out '%{http_code}' "$@" "$url") || exit_code=$?
    case $status in
      2??) return 0 ;;
      408 | 429 | 500 | 502 | 503 | 504) ;;
      000) # No answer. 6 and 7: the host was not found, nothing listened.
        if [[ $again == no && $exit_code != [67] ]]; then
          echo "$kind: no answer; it may have arrived and is not sent again" >&2
          return 1
        fi
        ;;
      *) # It would be refused again, for the reason that the answer gives.
        echo "$kind: refused with $status: $(cat "$work/answer")" >&2
        return 1
        ;;
    esac
    if ((try == tries)); then
      echo "$kind: given up after $try tries, the last one: $status" >&2
      return 1
    fi
    wait=$(sed -n 's/^[Rr]etry-[Aa]fter: *\([0-9]\{1,3\}\)[^0-9]*$/\1/p' "$work/headers")
    wait=${wait:-$pause}
    echo "$kind: try $try: $status, again in $wait s" >&2
    sleep "$wait"
    pause=$((pause < 30 ? pause * 2 : 60))
  done
}

# Measure.
df -Pk / > "$work/df.txt"
ratio=$(LC_ALL=C awk 'NR == 2 { printf "%.3f", $3 / $2 }' "$work/df.txt")
cat > "$work/result.json" <<JSON
{"disk_used_ratio": [{"value": $ratio, "labels": {"mount": "/"}}]}
JSON
cat > "$work/event.json" <<JSON
{"warning": false, "reason": "DiskChecked", "message": "used to %s", "args": ["$ratio"]}
JSON

# Send. A file has a name of its own, so that sending it again replaces it; it is streamed, of any size. The result comes
# last: once it is there, nothing is missing.
failed=0
post "$CALLBACK_SERVICE_FILE_URL?name=df.txt" yes --request POST --upload-file "$work/df.txt" || failed=1
post "$CALLBACK_SERVICE_EVENT_URL" no --header 'Content-Type: application/json' --data-binary "@$work/event.json" || true
post "$CALLBACK_SERVICE_RESULT_URL" yes --header 'Content-Type: application/json' --data-binary "@$work/result.json" || failed=1
exit "$failed"
