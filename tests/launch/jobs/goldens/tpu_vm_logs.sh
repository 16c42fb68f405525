#!/usr/bin/env bash
# the log of the first worker
gcloud compute tpus queued-resources ssh hb '--command=tail -n +1 -F humpback/jobs/train-m1/log' --worker=0 --node=0 --project=project --zone=us-west4-a --quiet
