"""Looks whether a Flink cluster can take a job; Beam itself waits for minutes, or for ever.

python -m launch.jobs.flink_check --master=HOST:8081 --version=2.2 --jar=JAR --slots=2
"""

import argparse
import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Sequence
from typing import Any

from humpback_jax.errors import UserError
from launch.jobs.flink import BEAM_VERSION

_SECONDS = 10.0


def check(master: str, version: str, jar: str, slots: int) -> None:
    """Looks at what a job needs.

    Args:
      master: "HOST:8081".
      version: of Flink, "2.2".
      jar: Beam's job server.
      slots: that the job takes.

    Raises:
      UserError: what is missing, and how to get it.
    """
    if shutil.which("java") is None:
        raise UserError(
            "there is no program 'java' on this machine, and Beam's job server needs it: install "
            "Java 17, then again"
        )
    if "://" not in jar and not os.path.exists(jar):
        raise UserError(
            f"there is no job server at {jar}: get it with `mvn dependency:get -Dtransitive=false "
            f"-Dartifact=org.apache.beam:beam-runners-flink-{version}-job-server:{BEAM_VERSION}`, "
            "or bind Flink.job_server_jar to the one you have"
        )
    found = overview(master)
    if not found["flink-version"].startswith(f"{version}."):
        raise UserError(
            f"the cluster at {master} is Flink {found['flink-version']} and Flink.version is "
            f"'{version}': bind Flink.version to the cluster's"
        )
    total, free = found["slots-total"], found["slots-available"]
    if total < slots:
        raise UserError(
            f"the cluster at {master} has {total} slots and Flink.parallelism is {slots}: start "
            "more TaskManagers or bind a smaller Flink.parallelism"
        )
    if free < slots:
        raise UserError(
            f"the cluster at {master} has {free} free slots of {total} and Flink.parallelism is "
            f"{slots}: wait for the jobs that run there or cancel them at http://{master}, perhaps "
            "one that was submitted before by a command that has ended"
        )


def overview(master: str) -> dict[str, Any]:
    """Returns what a JobManager says of itself: "flink-version", "taskmanagers", "slots-total".

    Raises:
      UserError: none answers there.
    """
    try:
        with urllib.request.urlopen(f"http://{master}/overview", timeout=_SECONDS) as answer:
            found = json.load(answer)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Flink answers at {master} ({error}): start the cluster, as docs/paths/flink.md "
            "says, or correct Flink.master"
        ) from error
    if not isinstance(found, dict) or "flink-version" not in found:
        raise UserError(
            f"what answers at {master} is no Flink: bind Flink.master to the REST address of the "
            "JobManager, HOST:8081"
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(prog="launch.jobs.flink_check")
    parser.add_argument("--master", required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--jar", required=True)
    parser.add_argument("--slots", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        check(options.master, options.version, options.jar, options.slots)
    except UserError as error:
        print(f"humpback: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
