#!/bin/sh
# A job in POSIX sh with wget, GNU's or BusyBox's (1.34 or newer), which small images have anyway: measures how full the root
# file system is, and sends a file, an event and the result.
#
# To make it yours, replace the part "measure" and keep `post`. Without a cluster: start `batch-job-controller mock` in one
# terminal, paste the export lines that it prints into another, and run this there.
#
# The controller sets CALLBACK_SERVICE_RESULT_URL, …_FILE_URL and …_EVENT_URL in every container. A node has succeeded when
# its pod ended with 0 and its result arrived, so this ends with 1 where the result or the file could not be delivered.
#
# BusyBox's wget sends a file up to its first zero byte: encode what is not text (base64), or use job.bash or job.py. It
# does not show Retry-After either. Neither wget shows the reason of a refusal; the controller's log and `mock` do.
set -eu

tries=10       # with pauses of 1, 2, 4 … 60 s: about four minutes, for a controller that restarts
limit_s=300    # one request, from its beginning to its answer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
LC_ALL=C       # wget's messages are read below, and numbers have a point
export LC_ALL

# post URL AGAIN FILE: posts, and tries again where that may help: no connection, or an answer that says "later". AGAIN says
# whether it may be sent twice: yes for results and files (the second replaces the first), no for events (there would be
# two), which are then only tried again where the first surely was not taken.
post() {
  kind=${1##*/} pause=1 try=1
  while :; do
    if timeout "$limit_s" wget -S -t 1 -O /dev/null --post-file "$3" "$1" 2> "$work/log"; then
      return 0
    fi
    status=$(sed -n 's|.*HTTP/1\.[01] \([0-9][0-9][0-9]\).*|\1|p' "$work/log" | tail -n 1)
    case $status in
      408 | 429 | 500 | 502 | 503 | 504) ;;
      '') # No answer.
        if [ "$2" = no ] && ! grep -q -e 'refused' -e 'unable to resolve' -e 'bad address' "$work/log"; then
          echo "$kind: no answer; it may have arrived and is not sent again" >&2
          return 1
        fi
        ;;
      *) # It would be refused again.
        echo "$kind: refused with $status" >&2
        return 1
        ;;
    esac
    if [ "$try" -eq "$tries" ]; then
      echo "$kind: given up after $try tries, the last one: ${status:-no answer}" >&2
      return 1
    fi
    wait=$(sed -n 's/^ *[Rr]etry-[Aa]fter: *\([0-9]\{1,3\}\)[^0-9]*$/\1/p' "$work/log")
    wait=${wait:-$pause}
    echo "$kind: try $try: ${status:-no answer}, again in $wait s" >&2
    sleep "$wait"
    try=$((try + 1))
    pause=$((pause < 30 ? pause * 2 : 60))
  done
}

# Measure.
df -Pk / > "$work/df.txt"
ratio=$(awk 'NR == 2 { printf "%.3f", $3 / $2 }' "$work/df.txt")
cat > "$work/result.json" << JSON
{"disk_used_ratio": [{"value": $ratio, "labels": {"mount": "/"}}]}
JSON
cat > "$work/event.json" << JSON
{"warning": false, "reason": "DiskChecked", "message": "used to %s", "args": ["$ratio"]}
JSON

# Send. A file has a name of its own, so that sending it again replaces it. The result comes last: once it is there, nothing
# is missing.
failed=0
post "$CALLBACK_SERVICE_FILE_URL?name=df.txt" yes "$work/df.txt" || failed=1
post "$CALLBACK_SERVICE_EVENT_URL" no "$work/event.json" || true
post "$CALLBACK_SERVICE_RESULT_URL" yes "$work/result.json" || failed=1
exit "$failed"
