#!/usr/bin/env bash
# end the workload and delete it
xpk workload delete --cluster=pod --project=project --zone=us-west4-a --workload=hb-train-m1 --quiet
