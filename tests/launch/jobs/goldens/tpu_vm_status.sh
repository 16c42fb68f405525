#!/usr/bin/env bash
# how it stands with the machines
gcloud compute tpus queued-resources describe hb --project=project --zone=us-west4-a '--format=json(state)'
