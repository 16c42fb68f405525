"""Every text template and tag of the method; nothing else renders a prompt.

A prompt is text that ends where the model's answer begins. The templates are values that a gin
file may bind: the microworld binds short ones, a user may bind others. Templates use Python's
format fields; text that is filled in is never parsed again, so pages may hold braces.
"""

import dataclasses
import string

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError

# The paper's section 2.3: seed pairs and augmented pairs carry different tags in training, so that
# the model can tell the two sources apart; at inference both are given.
ASSISTANT_TAG = "Answer in the style of an AI Assistant."
WEB_TAG = "Answer with knowledge from web search."

FORWARD = """\
{tags}

### Instruction:
{instruction}

### Response:
"""

BACKWARD = """\
Below is a response that an AI assistant gave. Write the instruction that it answers.

### Response:
{output}

### Instruction:
"""

# The five grades of the paper's Table 19, in our own words.
RATING = """\
You are given a user's instruction and a candidate answer. Judge whether the answer is a good \
example of how an AI assistant should reply to this instruction. Use this scale:

1 - Incomplete, vague, off topic, disputed, or not what was asked for; or it is promotion, \
navigation text, or somebody's account of a personal experience.
2 - Covers most of what was asked, but does not address the request directly, for instance by \
telling a story around it.
3 - Helpful and complete, yet plainly written by somebody other than an AI assistant, such as a \
blogger, a company or a news site, and with things that do not belong in an answer.
4 - Written from an assistant's point of view: complete, clear and focused on the request; small \
improvements are possible.
5 - An excellent answer of an AI assistant: it shows expert knowledge, is to the point and \
engaging, and has no part that should be left out.

First give the reason for your grade in one or two sentences, then write the grade on a last line \
of the form "Score: <grade>".

Instruction:
{instruction}

Candidate answer:
{output}

Reason:
"""

SCORE = "\nScore: "


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt and the answer a model is to give after it."""

    prompt: str
    answer: str


@configurable
@dataclasses.dataclass(frozen=True)
class Prompts:
    """The templates of a run.

    Attributes:
      assistant_tag: S_a, carried by seed examples.
      web_tag: S_w, carried by augmented examples.
      forward: instruction -> answer; fields tags, instruction.
      backward: answer -> instruction; field output.
      rating: (instruction, answer) -> reasoning; fields instruction, output. Its text before the
        first field is the rubric, the same for all candidates.
      score: what stands between the reasoning and the digit of the grade.
    """

    assistant_tag: str = ASSISTANT_TAG
    web_tag: str = WEB_TAG
    forward: str = FORWARD
    backward: str = BACKWARD
    rating: str = RATING
    score: str = SCORE

    def __post_init__(self):
        _check_fields("forward", self.forward, {"tags", "instruction"})
        _check_fields("backward", self.backward, {"output"})
        _check_fields("rating", self.rating, {"instruction", "output"})
        if not self.score:
            raise UsageError("Prompts.score is empty: give the words that stand before the grade")

    def render_forward(self, instruction: str, *tags: str) -> str:
        """Returns the prompt that M_t answers; at inference `tags` is `self.tags`."""
        return self.forward.format(tags=" ".join(tags), instruction=instruction)

    def render_backward(self, output: str) -> str:
        """Returns the prompt to which Myx answers with an instruction."""
        return self.backward.format(output=output)

    def render_rating(self, instruction: str, output: str) -> str:
        """Returns the prompt to which M_t answers with its reasoning."""
        return self.rating.format(instruction=instruction, output=output)

    @property
    def tags(self) -> tuple[str, str]:
        """Both tags, as they are given at inference."""
        return self.assistant_tag, self.web_tag

    @property
    def rubric(self) -> str:
        """The part of the rating prompt that every candidate shares."""
        literal, *_ = next(iter(string.Formatter().parse(self.rating)))
        return literal


def _check_fields(name: str, template: str, expected: set[str]) -> None:
    try:
        found = {
            field for _, field, _, _ in string.Formatter().parse(template) if field is not None
        }
    except ValueError as error:
        raise UsageError(
            f"Prompts.{name} is no format template ({error}): double its braces"
        ) from error
    if found != expected:
        raise UsageError(
            f"Prompts.{name} has the fields {sorted(found)} but needs {sorted(expected)}: "
            "correct the template in the gin file"
        )
