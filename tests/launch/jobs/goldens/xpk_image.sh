#!/usr/bin/env bash
# build the image, in the root of the repository
docker build --file=launch/docker/Dockerfile --target=gke --tag=us-docker.pkg.dev/project/humpback/gke:1 .
# send it to the registry
docker push us-docker.pkg.dev/project/humpback/gke:1
