"""The truth about each text of the microworld's web: is it a good answer, and to what.

A label is found by the words of its text, so it survives whatever markup a text went through.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from etils import epath

from humpback_jax import records
from humpback_jax.errors import UserError
from humpback_jax.microworld.language import Fact

GOOD = "good"
BOILERPLATE = "boilerplate"


@dataclasses.dataclass(frozen=True)
class Label:
    """What is true of a text.

    Attributes:
      label_id: `label_key` of the text.
      is_good: a complete and true answer in an assistant's voice.
      vice: "good", a vice of `WorldConfig.vice_shares`, or "boilerplate", which is nobody's answer
        and which the corpus filters ought to drop.
      task: what the text is about.
      entities: the towns the instruction names.
      instructions: every phrasing of the instruction that the text answers.
      required: what a complete answer says, truly.
      stated: what the text was made from, errors included (a truncated text says less).
      text: the text.
    """

    label_id: str
    is_good: bool
    vice: str
    task: str
    entities: tuple[str, ...]
    instructions: tuple[str, ...]
    required: tuple[Fact, ...]
    stated: tuple[Fact, ...]
    text: str

    def is_answer_to(self, instruction: str) -> bool:
        """Returns whether an instruction is one that the text answers, in any phrasing."""
        return label_key(instruction) in map(label_key, self.instructions)


def label_key(text: str) -> str:
    """Returns the id of a text by its words: case, whitespace and punctuation do not count.

    `label_key("Home | Soup, bread.") == label_key("home soup bread")`.
    """
    return records.stable_id(" ".join(re.findall(r"[a-z0-9]+", text.lower())))


def boilerplate(text: str) -> Label:
    """Returns the label of a page's text that answers nothing."""
    return Label(label_key(text), False, BOILERPLATE, "", (), (), (), (), text)


def join_labels(
    segments: Iterable[records.Segment], labels: Iterable[Label]
) -> dict[str, Label | None]:
    """Returns the label of each segment by its id; None for a text that the world did not write."""
    by_key = {label.label_id: label for label in labels}
    return {segment.segment_id: by_key.get(label_key(segment.text)) for segment in segments}


def read_labels(path: epath.PathLike) -> list[Label]:
    """Reads labels.jsonl; raises UserError naming a line that holds no label."""
    labels = []
    for number, row in records.read_jsonl(path):
        if not isinstance(row, Mapping):
            raise UserError(f"{path} line {number} is no label ({row}): write the world again")
        label = records.from_dict(Label, row)
        facts = {
            name: tuple(Fact(*fact) for fact in getattr(label, name))
            for name in ("required", "stated")
        }
        labels.append(dataclasses.replace(label, **facts))
    return labels
