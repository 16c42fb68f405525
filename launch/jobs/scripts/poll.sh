#!/usr/bin/env bash
# Says in a line how it stands with a command on a worker, in words that the supervisor reads.
#   poll.sh JOB
# A machine that goes down kills its processes one by one, and the shell that waits may live to write
# down that a signal ended the command: that is a command lost, not one that failed.
set -euo pipefail
if ! cd "$HOME/humpback/jobs/$1" 2> /dev/null; then
  echo "humpback-state absent"
  exit
fi
rebooted=$([ "$(cat boot)" = "$(cat /proc/sys/kernel/random/boot_id)" ] || echo yes)
code=$(cat exit_code 2> /dev/null || true)
if [ -n "$code" ] && { [ -z "$rebooted" ] || [ "$code" -le 128 ]; }; then
  echo "humpback-state exit $code"
elif [ -z "$rebooted" ] && kill -0 "$(cat running)" 2> /dev/null; then
  echo "humpback-state running"
else
  echo "humpback-state lost"
fi
