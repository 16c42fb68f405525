#!/usr/bin/env bash
# build the image, in the root of the repository
docker build --file=launch/docker/Dockerfile --target=dataflow --tag=us-docker.pkg.dev/project/humpback/dataflow:1 '--build-arg=LIBTPU_INIT_ARGS=--xla_tpu_enable_async_collective_fusion=true --xla_tpu_enable_async_collective_fusion_fuse_all_gather=true --xla_tpu_enable_async_collective_fusion_multiple_steps=true --xla_tpu_enable_data_parallel_all_reduce_opt=true --xla_tpu_overlap_compute_collective_tc=true --xla_tpu_scoped_vmem_limit_kib=98304 --xla_jf_spmd_threshold_for_windowed_einsum_mib=1000000' .
# send it to the registry
docker push us-docker.pkg.dev/project/humpback/dataflow:1
