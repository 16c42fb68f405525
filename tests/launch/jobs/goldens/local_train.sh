#!/usr/bin/env bash
# humpback train in a process of this machine
python -m launch.main train --gin_file=recipes/humpback_7b_v5e_16.gin '--gin.RUN_DIR="gs://bucket/run"' '--gin.CORPUS="gs://bucket/web/*.warc.gz"' '--gin.SEED="gs://bucket/seed.jsonl"' '--gin.BASE="gs://bucket/llama"' --model=M1
