#!/usr/bin/env bash
# Says in a line how it stands with a command on a worker, in words that the supervisor reads.
#   poll.sh JOB
set -euo pipefail
if ! cd "$HOME/humpback/jobs/$1" 2> /dev/null; then
  echo "humpback-state absent"
elif [ -e exit_code ]; then
  echo "humpback-state exit $(cat exit_code)"
elif [ "$(cat boot)" = "$(cat /proc/sys/kernel/random/boot_id)" ] &&
  kill -0 "$(cat running)" 2> /dev/null; then
  echo "humpback-state running"
else
  echo "humpback-state lost"
fi
