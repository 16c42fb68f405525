#!/usr/bin/env bash
# Starts a command on a worker so that it outlives the connection, and returns.
#   start.sh JOB ATTEMPT FILES [NAME TEXT]... COMMAND...
# In ~/humpback/jobs/JOB lie then: the FILES, log (all that the command says), running (the process
# that waits for it) and, once it has ended, exit_code. Started again under the same ATTEMPT, as when
# the connection broke, it changes nothing; nor while the command still runs, or another one does.
set -euo pipefail
job="$HOME/humpback/jobs/$1" attempt=$2 files=$3
shift 3
mkdir -p "$job"
cd "$job"
boot=$(cat /proc/sys/kernel/random/boot_id)
runs() {
  [ ! -e "$1/exit_code" ] && [ "$(cat "$1/boot" 2> /dev/null || true)" = "$boot" ] &&
    kill -0 "$(cat "$1/running" 2> /dev/null)" 2> /dev/null
}

if runs "$job"; then
  echo "humpback: runs already"
  exit 0
fi
for other in "$HOME"/humpback/jobs/*; do
  if runs "$other"; then
    echo "humpback-busy ${other##*/}"
    exit 1
  fi
done
if [ -e exit_code ] && [ "$(cat attempt)" = "$attempt" ]; then
  echo "humpback: has ended already"
  exit 0
fi
while [ "$files" -gt 0 ]; do
  mkdir -p "$(dirname "$1")"
  printf %s "$2" > "$1"
  shift 2
  files=$((files - 1))
done
rm -f exit_code running
echo "$attempt" > attempt
echo "$boot" > boot

supervise() {
  local code=0
  echo "$BASHPID" > running
  "$@" || code=$?
  echo "$code" > .exit_code
  mv .exit_code exit_code
}

export PATH="$HOME/humpback/venv/bin:$PATH" PYTHONUNBUFFERED=1
# The end of the connection sends a hangup to its processes. A signal to end is for the command
# alone, whose exit code this shell stays to write down.
(
  trap "" HUP
  trap : TERM
  supervise "$@"
) < /dev/null >> log 2>&1 &
while [ ! -e running ]; do sleep 0.1; done
echo "humpback: started"
