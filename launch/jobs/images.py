"""Container images with this package, one stage of launch/docker/Dockerfile for each place."""

from collections.abc import Mapping

from launch.jobs.command import Command

DOCKERFILE = "launch/docker/Dockerfile"


def image_commands(
    image: str, stage: str, arguments: Mapping[str, str] | None = None
) -> list[Command]:
    """Returns what builds an image in the root of the repository, and what pushes it.

    Args:
      image: its name in a registry.
      stage: of the Dockerfile.
      arguments: of the build.
    """
    given = [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
    build = ("docker", "build", f"--file={DOCKERFILE}", f"--target={stage}", f"--tag={image}")
    return [
        Command((*build, *given, "."), "build the image, in the root of the repository"),
        Command(("docker", "push", image), "send it to the registry"),
    ]
