# see that the cluster, Java and Beam's job server are there
python -m launch.jobs.flink_check --master=flink.example:8081 --version=2.2 '--jar=/opt/beam/job server.jar' --slots=8
# submit humpback curate to Flink and wait for its end
python -m launch.main curate '--gin_file=my run.gin' '--gin.CORPUS="it'"'"'s/*.gz"' --iteration=1 '--gin.BeamConfig.runner='"'"'FlinkRunner'"'"'' '--gin.BeamConfig.options=('"'"'--flink_master=flink.example:8081'"'"', '"'"'--flink_version=2.2'"'"', '"'"'--flink_job_server_jar=/opt/beam/job server.jar'"'"', '"'"'--artifacts_dir=/shared/artifacts'"'"', '"'"'--parallelism=8'"'"', '"'"'--environment_type=EXTERNAL'"'"', '"'"'--environment_config=127.0.0.1:50001'"'"', '"'"'--sdk_worker_parallelism=1'"'"')'
