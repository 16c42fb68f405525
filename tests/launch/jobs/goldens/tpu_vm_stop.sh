#!/usr/bin/env bash
# tell every worker to save and end
gcloud compute tpus queued-resources ssh hb '--command=bash -c '"'"'#!/usr/bin/env bash
# Tells a command on a worker to end (SIGTERM): a trainer saves and ends with code 42.
#   stop.sh JOB
set -euo pipefail
cd "$HOME/humpback/jobs/$1"
if [ ! -e exit_code ] && [ -e running ]; then
  pkill -TERM -P "$(cat running)" || echo "humpback: it runs no more"
fi
'"'"' stop.sh train-m1' --project=project --zone=us-west4-a --quiet --worker=all --node=all
