#!/usr/bin/env bash
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
