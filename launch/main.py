"""The `humpback` command line.

Exit codes: 0 done; 1 failed, with one sentence that says what to do; 2 wrong usage; 42 told to end
(SIGTERM), with what was done saved; 130 interrupted (Ctrl-C).
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence

from humpback_jax.errors import UsageError, UserError
from humpback_jax.hardware import TPU_COMPILER_OPTIONS
from launch import ckpt, inspection
from launch.jobs import cli
from launch.jobs.environment import libtpu_arguments
from launch.plan import flags as plan_flags

_SINGLE = {
    "world": "write the microworld's files",
    "segment": "cut the corpus into segments",
    "seed": "read the seed pairs",
    "pretrain": "train a base model and write it as a Hugging Face folder",
    "base": "import the base model",
    "augment": "let Myx write an instruction for each segment",
    "evaluate": "let the models answer and measure them",
    "report": "write metrics.json and the HTML report",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="humpback",
        description="Instruction backtranslation: from web pages and seed pairs to M2.",
        epilog="--gin.NAME=VALUE sets a macro or a binding of the gin files; it may be repeated.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    gin_flags = argparse.ArgumentParser(add_help=False)
    gin_flags.add_argument("--gin_file", action="append", required=True, metavar="FILE")
    gin_flags.add_argument("--gin_search_paths", default="", metavar="DIR,DIR")
    pod_flags = argparse.ArgumentParser(add_help=False)
    pod = pod_flags.add_argument_group("several processes, one for each host")
    pod.add_argument("--distributed", action="store_true", help="join the hosts of a TPU pod")
    pod.add_argument("--coordinator_address", default="", metavar="HOST:PORT")
    pod.add_argument("--process_count", type=int, default=0)
    pod.add_argument("--process_index", type=int, default=-1)
    # Given by `humpback run` to what it starts.
    pod_flags.add_argument("--driver", default="", help=argparse.SUPPRESS)
    pod_flags.add_argument("--place", default="", help=argparse.SUPPRESS)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        parents = [gin_flags, pod_flags]
        added = commands.add_parser(name, help=text, description=text, parents=parents)
        added.set_defaults(engine="")
        if name in ("run", "augment", "curate"):
            text = "augment and curate with Beam (default), or without in this process or a pod's"
            added.add_argument("--engine", choices=("beam", "pod"), help=text)
        return added

    run = command("run", "run the whole loop; skip what is done, resume what was killed")
    text = "print the commands that the launch plan would run, stage by stage; starts nothing"
    run.add_argument("--dry-run", action="store_true", help=text)
    single = {name: command(name, text) for name, text in _SINGLE.items()}
    text = "print the headers of this page of the corpus and what became of each; runs nothing"
    single["segment"].add_argument("--explain", metavar="URL", help=text)
    train = command("train", "finetune one model from the base")
    train.add_argument("--model", required=True, help="Myx, M0, M1, ... or an arm of the recipe")
    curate = command("curate", "rate the candidates with the model of the iteration before")
    curate.add_argument("--iteration", type=int, required=True)
    status = commands.add_parser("status", help="show what is done, running and left")
    status.add_argument("run_dir")
    ckpt.add_parser(commands, pod_flags)
    cli.add_parser(commands, gin_flags)
    text = plan_flags.DESCRIPTION
    plan_flags.add(commands.add_parser("plan", help=text, description=text, parents=[gin_flags]))
    return parser


def _split_bindings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (arguments without --gin.NAME=VALUE, the bindings NAME=VALUE)."""
    rest, bindings = [], []
    for argument in arguments:
        if argument.startswith("--gin."):
            if "=" not in argument:
                raise UsageError(f"{argument} has no value: write {argument}=VALUE")
            bindings.append(argument.removeprefix("--gin."))
        else:
            rest.append(argument)
    return rest, bindings


def _run(arguments: Sequence[str]) -> int:
    """Runs a command and returns the exit code."""
    arguments, launched = cli.split(arguments)
    rest, bindings = _split_bindings(arguments)
    options = _parser().parse_args(rest)
    if options.command == "status":
        from launch import status

        print(status.describe(options.run_dir))
        return 0
    if options.command == "ckpt" and ckpt.looks_only(options):
        os.environ["JAX_PLATFORMS"] = "cpu"
        return inspection.run(options)
    search = [path for path in options.gin_search_paths.split(",") if path]
    if options.command == "plan":
        from launch.plan import command

        command.run(options, bindings, search)
        return 0
    if options.command == "launch":
        return cli.run(options, bindings, search, launched, _launched_stage)
    from humpback_jax import distributed

    if options.distributed or options.coordinator_address or options.process_count:
        distributed.initialize(
            options.coordinator_address, options.process_count, options.process_index
        )
    if options.command == "ckpt":
        ckpt.run(options, bindings)
        return 0
    from humpback_jax import rundir
    from launch import configuration, loop
    from launch.context import Context
    from launch.jobs.gin_files import GinFlags
    from launch.jobs.launch_plan import Launcher
    from launch.recipe import Recipe

    configuration.parse(options.gin_file, bindings, search)
    context = Context(configuration.build(Recipe), options.engine or "beam")
    rundir.check_reach(context.recipe.run_dir)
    if options.command == "segment" and options.explain:
        from launch import explain

        explain.run(context, options.explain)
    elif options.command == "run":
        flags = GinFlags(tuple(options.gin_file), tuple(bindings), tuple(search)).arguments()
        launcher = Launcher(context, flags, options.engine)
        if options.dry_run:
            print(launcher.describe())
        else:
            loop.run(context, launcher)
    else:
        name = _stage_name(options, context.recipe)
        loop.run_alone(context, name, options.driver, options.place)
    return 0


def _launched_stage(arguments: Sequence[str]) -> str:
    """Returns the stage that a launched subcommand runs, "run" for all of them."""
    from launch import configuration
    from launch.recipe import Recipe

    if arguments[0] not in ("run", "train", "curate", *_SINGLE):
        raise UsageError(
            f"`humpback {arguments[0]}` is nothing to launch: give `run` or the command of a stage"
        )
    rest, _ = _split_bindings(arguments)
    options = _parser().parse_args(rest)
    recipe = configuration.build(Recipe)
    return "run" if options.command == "run" else _stage_name(options, recipe)


def _stage_name(options: argparse.Namespace, recipe) -> str:
    """Returns the stage that a single command means, if the recipe has it."""
    name, kind, known = options.command, "stage", (*recipe.stages, "world", "pretrain")
    if name == "train":
        name, kind, known = options.model, "model", recipe.models
    elif name == "curate":
        name = f"curate{options.iteration}"
    if name not in known:
        listed = ", ".join(recipe.models if kind == "model" else recipe.stages)
        raise UsageError(f"the recipe has no {kind} '{name}' (it has {listed})")
    return name


def _set_environment() -> None:
    """Gives libraries their settings before they are imported, and silences what they say.

    What they say of themselves nobody can act on.
    """
    os.environ.setdefault("LIBTPU_INIT_ARGS", libtpu_arguments(TPU_COMPILER_OPTIONS))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # gcsfs would answer from what it once listed, and not see what other machines have done since.
    os.environ.setdefault("FSSPEC_GCS", '{"use_listings_cache": false}')
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    noise = ("apitools not found", "Resource module is not available")  # Beam without [gcp]
    logging.getLogger().addFilter(lambda record: not record.getMessage().startswith(noise))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code."""
    _set_environment()
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"humpback: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "humpback: interrupted (Ctrl-C): run the same command again to go on; what is done is "
            "kept",
            file=sys.stderr,
        )
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
