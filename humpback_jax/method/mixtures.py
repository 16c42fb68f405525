"""Which examples train which model, and the prompts they become.

Myx is trained on the seed pairs, output -> instruction; M0 on the seed pairs, instruction ->
output, with the assistant tag; M1 and M2 on these and on the curated candidates with the web tag.
"""

import collections
from collections.abc import Iterable, Sequence
from typing import Literal

from humpback_jax import prompts as prompts_lib
from humpback_jax.errors import UserError
from humpback_jax.prompts import Prompts
from humpback_jax.records import Candidate, Example, SeedPair, stable_id

Direction = Literal["forward", "backward"]


def backward_examples(pairs: Iterable[SeedPair]) -> list[Example]:
    """Returns what trains Myx: the seed pairs without a tag, to be rendered backward."""
    return [_from_seed(pair, "", "backward") for pair in pairs]


def seed_examples(pairs: Iterable[SeedPair], prompts: Prompts) -> list[Example]:
    """Returns the seed pairs with the assistant tag; alone they train M0."""
    return [_from_seed(pair, prompts.assistant_tag, "seed") for pair in pairs]


def augmented_examples(candidates: Iterable[Candidate], prompts: Prompts) -> list[Example]:
    """Returns candidates with the web tag.

    Raises:
      UserError: a candidate's status is not "ok".
    """
    return [_from_candidate(candidate, prompts.web_tag) for candidate in candidates]


def joint_examples(
    pairs: Iterable[SeedPair], candidates: Iterable[Candidate], prompts: Prompts
) -> list[Example]:
    """Returns the mixture that trains M1 and M2: the seed and the augmented examples.

    Raises:
      UserError: a pair or a candidate comes twice, or a candidate's status is not "ok".
    """
    examples = seed_examples(pairs, prompts) + augmented_examples(candidates, prompts)
    check_unique(examples)
    return examples


def check_unique(examples: Sequence[Example]) -> None:
    """Raises UserError if an example comes twice: it would silently weigh double."""
    counts = collections.Counter(example.example_id for example in examples)
    for example in examples:
        if counts[example.example_id] > 1:
            raise UserError(
                f"the {example.origin} record {example.source_ids[0]} is in the mixture "
                f"{counts[example.example_id]} times: give each record once"
            )


def to_prompt(
    example: Example, prompts: Prompts, direction: Direction = "forward"
) -> prompts_lib.Example:
    """Returns the prompt and the answer that an example trains.

    Args:
      example: the record.
      prompts: the templates.
      direction: "forward" gives the instruction with the example's tag, answered by the output;
        "backward" the output, answered by the instruction.
    """
    if direction == "backward":
        return prompts_lib.Example(prompts.render_backward(example.output), example.instruction)
    prompt = prompts.render_forward(example.instruction, example.tag)
    return prompts_lib.Example(prompt, example.output)


def _from_seed(pair: SeedPair, tag: str, use: str) -> Example:
    return Example(
        example_id=stable_id(use, pair.pair_id),
        tag=tag,
        instruction=pair.instruction,
        output=pair.output,
        origin="seed",
        source_ids=(pair.pair_id,),
    )


def _from_candidate(candidate: Candidate, tag: str) -> Example:
    if candidate.status != "ok":
        raise UserError(
            f"the candidate of segment {candidate.segment_id} is {candidate.status}: "
            "only candidates of status ok may train a model"
        )
    return Example(
        example_id=stable_id("augmented", candidate.segment_id),
        tag=tag,
        instruction=candidate.instruction,
        output=candidate.output,
        origin="augmented",
        source_ids=(candidate.segment_id,),
    )
