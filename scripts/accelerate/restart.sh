#!/usr/bin/env bash
# Runs a training command, and again where it stopped as long as it fails:
#
#     scripts/accelerate/restart.sh accelerate launch … scripts/run_mae.py … --output_dir runs/base
#
# --resume_from_checkpoint last is added, so that the first try goes on too if there is something to
# go on from. RETRIES is how often it is started again at most (5), PAUSE the seconds before (30).
# Not again: when it has ended well, when its flags are wrong (2), when there is no such command
# (126, 127), and when somebody stopped it (129 HUP, 130 INT, 138 USR1, 143 TERM). Status 1 is tried
# again, for launchers give it to whatever happened.
#
# On several machines run it on each: when one fails the others do too, and they meet again.
set -um  # the command gets a process group of its own: Ctrl-C reaches it once, through pass_on

retries=${RETRIES:-5}
pause=${PAUSE:-30}
child=
asked_to_stop=

pass_on() {
    asked_to_stop=$1
    if [ -n "$child" ]; then
        kill -s "$1" "$child" 2>/dev/null
    fi
}
for signal in HUP INT USR1 TERM; do
    trap "pass_on $signal" "$signal"
done

# waits for the child to its end, through signals that arrive meanwhile
finish() {
    wait "$child"
    status=$?
    while kill -0 "$child" 2>/dev/null; do
        wait "$child"
        status=$?
    done
    child=
}

for ((try = 0; ; try++)); do
    "$@" --resume_from_checkpoint last &
    child=$!
    finish
    if [ -n "$asked_to_stop" ]; then
        exit "$status"
    fi
    case $status in
    0 | 2 | 126 | 127 | 129 | 130 | 138 | 143) exit "$status" ;;
    esac
    if [ "$try" -ge "$retries" ]; then
        echo "restart.sh: ended with status $status, $retries retries are used up" >&2
        exit "$status"
    fi
    echo "restart.sh: ended with status $status, again in $pause s (retry $((try + 1)) of $retries)" >&2
    sleep "$pause" &
    child=$!
    finish
    if [ -n "$asked_to_stop" ]; then
        exit 143
    fi
done
