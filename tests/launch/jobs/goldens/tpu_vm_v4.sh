#!/usr/bin/env bash
# ask for v4-128 (64 chips, 4x4x4)
gcloud compute tpus queued-resources create hb --project=project --zone=us-west4-a --accelerator-type=v4-128 --runtime-version=tpu-ubuntu2204-base --node-id=hb
# install humpback on every worker
gcloud compute tpus queued-resources ssh hb '--command=bash -c '"'"'#!/usr/bin/env bash
# Installs Python and humpback on a worker of a TPU slice, unless that very package is there.
#   setup.sh PYTHON PACKAGE IDENTITY
# PACKAGE is a requirement (git+https://...), a wheel in a bucket (gs://...), or the name of a wheel
# that was copied into the home folder. IDENTITY tells two wheels of one name apart. While a command
# runs there (start.sh), the package that it imports from is left alone.
set -euo pipefail
python=$1 package=$2 identity="$1 $2 $3"
mkdir -p "$HOME/humpback/jobs"
cd "$HOME/humpback"
if [ "$(cat installed 2> /dev/null || true)" = "$identity" ]; then
  echo "humpback: $package is installed"
  exit 0
fi
boot=$(cat /proc/sys/kernel/random/boot_id)
for job in jobs/*; do
  if [ ! -e "$job/exit_code" ] && [ "$(cat "$job/boot" 2> /dev/null || true)" = "$boot" ] &&
    kill -0 "$(cat "$job/running" 2> /dev/null)" 2> /dev/null; then
    echo "humpback-busy ${job##*/}"
    exit 1
  fi
done
rm -f installed
case $package in
  gs://*)
    gcloud storage cp "$package" .
    source="file://$PWD/${package##*/}" ;;
  git+*) source=$package ;;
  *) source="file://$HOME/$package" ;;
esac
# The images come with another Python than ours, and some without pip or venv: uv needs neither.
if [ ! -x uv/uv ]; then
  curl -LsSf https://astral.sh/uv/install.sh | env UV_UNMANAGED_INSTALL="$PWD/uv" sh
fi
uv/uv venv --quiet --clear --python "$python" venv
uv/uv pip install --quiet --python venv/bin/python "humpback-jax[tpu] @ $source"
echo "$identity" > installed
echo "humpback: $package was installed"
'"'"' setup.sh 3.12 git+https://github.com/me/humpback-jax@v1 '"'"''"'"'' --project=project --zone=us-west4-a --quiet --worker=all --node=all
# start humpback train on every worker
gcloud compute tpus queued-resources ssh hb '--command=bash -c '"'"'#!/usr/bin/env bash
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
'"'"' start.sh train-m1 '"'"''"'"' 0 env JAX_PLATFORMS=tpu,cpu '"'"'LIBTPU_INIT_ARGS=--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_overlap_compute_collective_tc=true --xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000'"'"' humpback train --gin_file=recipes/humpback_65b_v4_128.gin '"'"'--gin.RUN_DIR="gs://bucket/run"'"'"' '"'"'--gin.CORPUS="gs://bucket/web/*.warc.gz"'"'"' '"'"'--gin.SEED="gs://bucket/seed.jsonl"'"'"' '"'"'--gin.BASE="gs://bucket/llama"'"'"' '"'"'--gin.TpuVm.name='"'"'"'"'"'"'"'"'hb'"'"'"'"'"'"'"'"''"'"' '"'"'--gin.TpuVm.project='"'"'"'"'"'"'"'"'project'"'"'"'"'"'"'"'"''"'"' '"'"'--gin.TpuVm.zone='"'"'"'"'"'"'"'"'us-west4-a'"'"'"'"'"'"'"'"''"'"' '"'"'--gin.TpuVm.package='"'"'"'"'"'"'"'"'git+https://github.com/me/humpback-jax@v1'"'"'"'"'"'"'"'"''"'"' --model=M1 --distributed' --project=project --zone=us-west4-a --quiet --worker=all --node=all
# how it stands with the machines
gcloud compute tpus queued-resources describe hb --project=project --zone=us-west4-a '--format=json(state)'
# how it stands with every worker
gcloud compute tpus queued-resources ssh hb '--command=bash -c '"'"'#!/usr/bin/env bash
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
'"'"' poll.sh train-m1' --project=project --zone=us-west4-a --quiet --worker=all --node=all
# delete the machines, which are paid for until then
gcloud compute tpus queued-resources delete hb --project=project --zone=us-west4-a --force --quiet
