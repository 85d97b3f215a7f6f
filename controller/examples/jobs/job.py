#!/usr/bin/env python3
"""A job in Python, standard library only: measures how full the root file system is, and sends a file, an event and the
result.

To make it yours, replace `measure` and keep `post`. Without a cluster: start `batch-job-controller mock` in one terminal,
paste the export lines that it prints into another, and run this there.

The controller sets CALLBACK_SERVICE_RESULT_URL, …_FILE_URL and …_EVENT_URL in every container. A node has succeeded when
its pod ended with 0 and its result arrived, so this ends with 1 where the result or the file could not be delivered.
"""

import http.client
import json
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request

TRIES = 10  # with pauses of 1, 2, 4 … 60 s: about four minutes, for a controller that restarts
TIMEOUT_S = 60  # of a connection on which nothing moves
LATER = {408, 429, 500, 502, 503, 504}  # answers after which it is worth coming again


def post(url, path, again):
    """Posts a file's content, and tries again where that may help: no connection, or an answer that says "later".

    `again` says whether it may be sent twice: true for results and files (the second replaces the first), false for events
    (there would be two), which are then only tried again where the first surely was not taken. Returns whether it arrived.
    """
    kind = url.rpartition("/")[2]
    pause = 1
    for attempt in range(1, TRIES + 1):
        wait = pause
        try:
            with open(path, "rb") as body:  # streamed, of any size
                headers = {
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(os.fstat(body.fileno()).st_size),
                }
                request = urllib.request.Request(url, body, headers, method="POST")
                with urllib.request.urlopen(request, timeout=TIMEOUT_S):
                    return True
        except urllib.error.HTTPError as error:
            if error.code not in LATER:  # it would be refused again, for the reason that the answer gives
                reason = error.read().decode(errors="replace").strip()
                print(f"{kind}: refused with {error.code}: {reason}", file=sys.stderr)
                return False
            found = error.code
            retry_after = error.headers.get("Retry-After", "")
            if retry_after.isascii() and retry_after.isdigit():
                wait = min(int(retry_after), 999)
        except (OSError, http.client.HTTPException) as error:
            found = getattr(error, "reason", error)
            never_sent = isinstance(found, (ConnectionRefusedError, socket.gaierror))
            if not again and not never_sent:
                print(f"{kind}: {found}; it may have arrived and is not sent again", file=sys.stderr)
                return False
        if attempt < TRIES:
            print(f"{kind}: try {attempt}: {found}, again in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)
            pause = pause * 2 if pause < 30 else 60
    print(f"{kind}: given up after {TRIES} tries, the last one: {found}", file=sys.stderr)
    return False


def measure():
    """What is measured: a text for people, and a number."""
    usage = shutil.disk_usage("/")
    return f"total {usage.total}\nused {usage.used}\nfree {usage.free}\n", round(usage.used / usage.total, 3)


def main():
    text, ratio = measure()
    result = {"disk_used_ratio": [{"value": ratio, "labels": {"mount": "/"}}]}
    event = {"warning": False, "reason": "DiskChecked", "message": "used to %s", "args": [str(ratio)]}
    with tempfile.TemporaryDirectory() as work:

        def write(name, content):
            path = os.path.join(work, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
            return path

        # A file has a name of its own, so that sending it again replaces it. The result comes last: once it is there,
        # nothing is missing.
        sent = [
            post(os.environ["CALLBACK_SERVICE_FILE_URL"] + "?name=df.txt", write("df.txt", text), again=True),
            post(os.environ["CALLBACK_SERVICE_EVENT_URL"], write("event.json", json.dumps(event)), again=False) or True,
            post(os.environ["CALLBACK_SERVICE_RESULT_URL"], write("result.json", json.dumps(result)), again=True),
        ]
    return 0 if all(sent) else 1


if __name__ == "__main__":
    sys.exit(main())
