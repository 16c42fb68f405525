#!/usr/bin/env bash
# humpback train in 2 processes of this machine
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m launch.jobs.processes --processes=2 -- python -m launch.main train --gin_file=recipes/humpback_7b_v5e_16.gin '--gin.RUN_DIR="gs://bucket/run"' '--gin.CORPUS="gs://bucket/web/*.warc.gz"' '--gin.SEED="gs://bucket/seed.jsonl"' '--gin.BASE="gs://bucket/llama"' --gin.Local.processes=2 --gin.Local.devices=4 --model=M1
