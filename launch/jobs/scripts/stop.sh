#!/usr/bin/env bash
# Tells a command on a worker to end (SIGTERM): a trainer saves and ends with code 42.
#   stop.sh JOB
set -euo pipefail
cd "$HOME/humpback/jobs/$1"
if [ ! -e exit_code ] && [ -e running ]; then
  pkill -TERM -P "$(cat running)" || echo "humpback: it runs no more"
fi
