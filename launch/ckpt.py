"""`humpback ckpt`: what can be done with the folder of a model."""

import argparse
from collections.abc import Sequence

from humpback_jax.errors import UsageError
from launch import inspection

DTYPES = ("bfloat16", "float16", "float32")


def add_parser(commands, pod_flags: argparse.ArgumentParser) -> None:
    """Adds the command and its subcommands to what `add_subparsers` gave."""
    text = "look into checkpoints; import and export the folders of models"
    parser = commands.add_parser("ckpt", help=text, description=text)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    gin_flags = argparse.ArgumentParser(add_help=False)
    gin_flags.add_argument("--gin_file", action="append", default=[], metavar="FILE")
    gin_flags.add_argument("--gin_search_paths", default="", metavar="DIR,DIR")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=text, parents=[gin_flags, pod_flags])

    take = action("import", "write a Hugging Face or Meta folder as a folder of ours, in Orbax")
    give = action("export", "write a folder of ours as a Hugging Face folder")
    for command in (take, give):
        command.add_argument("source", metavar="SRC")
        command.add_argument("destination", metavar="DST")
        command.add_argument("--dtype", choices=DTYPES, help="by default, the one of SRC")
    inspection.add_parsers(actions)
    take.add_argument("--max_length", type=int, help="tokens that a model of Meta's was made for")


def looks_only(options: argparse.Namespace) -> bool:
    """Returns whether a command looks into checkpoints and needs neither devices nor gin."""
    return options.action in inspection.ACTIONS


def run(options: argparse.Namespace, bindings: Sequence[str]) -> None:
    """Runs a subcommand that imports or exports."""
    if options.gin_file or bindings:
        from launch import configuration

        search = [path for path in options.gin_search_paths.split(",") if path]
        configuration.parse(options.gin_file, bindings, search)
    {"import": import_folder, "export": export_folder}[options.action](options)


def _mesh(options: argparse.Namespace):
    """Returns the mesh of the gin files; without them, one that spreads parameters over all."""
    from humpback_jax.partitioning import MeshConfig, make_mesh

    if options.gin_file:
        from launch import configuration

        return make_mesh(configuration.build(MeshConfig))
    return make_mesh(MeshConfig(data=1, fsdp=-1))


def import_folder(options: argparse.Namespace) -> None:
    """Writes a foreign model folder as one of ours."""
    from humpback_jax import distributed
    from humpback_jax.checkpoints import bundle, destination, importing

    if options.max_length is not None and options.max_length < 1:
        raise UsageError(f"--max_length={options.max_length} is no number of tokens: give one")
    model, tokenizer = importing.open_folder(options.source, options.dtype, options.max_length)
    made_of = importing.identity(options.source)
    made_of |= {"dtype": options.dtype, "max_length": options.max_length}
    done = distributed.on_primary(
        lambda: destination.claim(options.destination, "import", made_of, bundle.CARD_NAME)
    )
    if done:
        print(f"{options.destination} holds this import already")
        return
    for note in model.notes:
        print(note)
    card = importing.import_model(model, tokenizer, options.destination, _mesh(options))
    config = card.config
    print(
        f"{options.destination}: {config.num_parameters:,} parameters in {config.param_dtype}, "
        f"{config.num_layers} layers, up to {config.max_length} tokens, fingerprint "
        f"{card.fingerprint}"
    )


def export_folder(options: argparse.Namespace) -> None:
    """Writes a model folder as one of Hugging Face's."""
    import dataclasses
    import os

    from humpback_jax import distributed
    from humpback_jax.checkpoints import bundle, destination, huggingface, huggingface_config
    from humpback_jax.prompts import Prompts
    from launch import configuration

    prompts = configuration.build(Prompts)
    made_of = {
        "source": os.path.abspath(options.source),
        "fingerprint": bundle.fingerprint(options.source),
        "dtype": options.dtype,
        "prompts": dataclasses.asdict(prompts),
    }
    done = distributed.on_primary(
        lambda: destination.claim(options.destination, "export", made_of, huggingface.CONFIG_NAME)
    )
    if done:
        print(f"{options.destination} holds this export already")
        return
    model = bundle.load_model(options.source, _mesh(options), options.dtype)
    huggingface.write_model(
        options.destination,
        model.config,
        model.params,
        model.eos_ids,
        model.tokenizer,
        prompts,
    )
    print(
        f"{options.destination}: {model.config.num_parameters:,} parameters in "
        f"{model.config.param_dtype}, a {huggingface_config.family_of(model.config)} folder"
    )
