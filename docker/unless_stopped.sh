#!/bin/sh
# Runs "$@" and ends with its status, but with 143 where that is 0 because the command was told to stop (SIGTERM).
# A learner ends with 0 both when its run is done and when it was stopped; for a Job of Kubernetes 0 means done.
set -u
stopped=0

"$@" &
child=$!
trap 'stopped=1; kill -TERM "$child" 2>/dev/null' TERM INT

# A signal ends `wait` before the command has ended.
while :; do
    wait "$child"
    status=$?
    kill -0 "$child" 2>/dev/null || break
done
if [ "$status" -eq 0 ] && [ "$stopped" -eq 1 ]; then
    exit 143
fi
exit "$status"
