"""The files of a world: what a user would bring to the loop, and the truth to check it by."""

from etils import epath

from humpback_jax import records, rundir
from humpback_jax.microworld import labels, pages
from humpback_jax.microworld.questions import make_questions
from humpback_jax.microworld.seed import seed_messages
from humpback_jax.microworld.segments import web_texts
from humpback_jax.microworld.tokenizer import build_tokenizer
from humpback_jax.microworld.world import WorldConfig, make_world


def write_world(folder: epath.PathLike, config: WorldConfig) -> None:
    """Writes a world; equal configurations give equal bytes.

    In the folder: corpus/web-00000.warc.gz and so on, the pages; seed.jsonl, messages of an Open
    Assistant export; questions.jsonl, a `questions.Question` a line; labels.jsonl, a
    `labels.Label` for every text on the pages; tokenizer.model.
    """
    folder = epath.Path(folder)
    world = make_world(config)
    texts = web_texts(world, config)
    web = pages.make_pages(texts, config)
    for number in range(config.files):
        name = f"web-{number:05d}.warc.gz"
        warc = pages.make_warc(name, web[number :: config.files])
        rundir.write_atomic(folder / "corpus" / name, warc)
    truth = [text.label for text in texts] + [
        labels.boilerplate(body) for _, body in pages.REJECTED_SECTIONS
    ]
    rundir.write_atomic(folder / "labels.jsonl", records.to_jsonl(truth))
    rundir.write_atomic(folder / "seed.jsonl", records.to_jsonl(seed_messages(world, config)))
    questions = make_questions(world, config)
    rundir.write_atomic(folder / "questions.jsonl", records.to_jsonl(questions))
    rundir.write_atomic(folder / "tokenizer.model", build_tokenizer())
