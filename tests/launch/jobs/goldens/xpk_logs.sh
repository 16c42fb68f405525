#!/usr/bin/env bash
# the log of the first pod
kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name=hb-train-m1,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0
