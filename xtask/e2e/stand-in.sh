#!/bin/sh
# Stands in for a tool in the tests of `cargo xtask e2e`: by whatever link it is called, it writes its arguments to a file
# beside the link, and the cluster's configuration where it is given one. It fails at the word in the file NAME.fails.
echo "$*" >>"$0.calls"
previous=
for argument in "$@"; do
    [ "$previous" = --config ] && cat "$argument" >>"$0.config"
    previous=$argument
done
[ -e "$0.fails" ] && [ "$1" = "$(cat "$0.fails")" ] && { echo "as told" >&2; exit 1; }
exit 0
