#!/usr/bin/env bash
# how it stands with the workload
xpk workload list --cluster=pod --project=project --zone=us-west4-a --filter-by-job=hb-train-m1
