"""What is no instruction for a response: empty ones, echoes, copies, ones in another language.

In one reimplementation 28 % of the generated instructions echoed the prompt or copied the response;
each spends a rating and, once it is kept, teaches the model to do the same. An instruction in
another language than its response's teaches the model to answer in the wrong one.
"""

import dataclasses
import functools
import re
import string
import unicodedata

from resiliparse.parse.lang import detect_fast

from humpback_jax.configurable import configurable
from humpback_jax.errors import UsageError
from humpback_jax.prompts import Prompts
from humpback_jax.records import CandidateStatus

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n+")
# Above every distance the language detector can give, so that none is cut off.
_ANY_DISTANCE = 1_000_000


@configurable
@dataclasses.dataclass(frozen=True)
class LeakConfig:
    """What the filter takes for a leak.

    Attributes:
      max_characters: a longer instruction is "too_long".
      echo_words: a sentence of the template with at least this many words is an echo wherever it
        occurs; a shorter one, such as "### Response:", only where it begins a line.
      copy_words: length n of the word n-grams that are looked for in the response; a shorter
        instruction is looked for whole, unless it has fewer than half as many words.
      copy_share: an instruction is a copy if at least this share of its n-grams is in the response.
      check_language: whether the instruction must be in the segment's language.
      language_characters: a shorter instruction's language is not judged, since it cannot be told:
        of 540 human instructions in English below 60 characters the detector takes 166 for another
        language or none.
      language_margin: how much nearer, in the detector's units, the instruction must be to another
        language than to the segment's. At 60 characters and 50 units none of 1,199 human
        instructions in English is rejected (40 at one unit), and 62 % of 8,582 sentences in ten
        other languages are (94 %).
    """

    max_characters: int = 2000
    echo_words: int = 4
    copy_words: int = 8
    copy_share: float = 0.5
    check_language: bool = True
    language_characters: int = 60
    language_margin: int = 50

    def __post_init__(self):
        counts = ("max_characters", "echo_words", "copy_words")
        for name in (*counts, "language_characters", "language_margin"):
            if getattr(self, name) < 1:
                raise UsageError(f"LeakConfig.{name} is {getattr(self, name)}: give at least 1")
        if not 0 < self.copy_share <= 1:
            raise UsageError(f"LeakConfig.copy_share is {self.copy_share}: it must be in (0, 1]")


def check(
    instruction: str, output: str, prompts: Prompts, config: LeakConfig, language: str = ""
) -> tuple[CandidateStatus, str]:
    """Returns ("ok", "") or the status that says why an instruction is not passed on, and a detail.

    Args:
      instruction: what the backward model wrote.
      output: the response it was written for.
      prompts: whose backward template and tags must not come back.
      config: the limits.
      language: the segment's, a two-letter code; one that the detector does not know, such as ""
        or "unknown", judges nothing.
    """
    if not _WORD.search(instruction):
        return "empty", "no word in it"
    if len(instruction) > config.max_characters:
        return "too_long", f"{len(instruction)} characters, at most {config.max_characters}"
    echo = _echo(instruction, prompts, config.echo_words)
    if echo is not None:
        return "leaked", f"echo of the prompt: {echo}"
    share = copied_share(instruction, output, config.copy_words)
    if share >= config.copy_share:
        return "leaked", f"copy of the response: {share:.0%} of its word {config.copy_words}-grams"
    other = _other_language(instruction, output, language, config) if language else None
    if other is not None:
        return "wrong_language", f"written in '{other}', its segment in '{language}'"
    return "ok", ""


def copied_share(instruction: str, output: str, n: int) -> float:
    """Returns the share of the instruction's word n-grams that occur in the response.

    With n = 3, "list the red cars" has the n-grams "list the red" and "the red cars"; of these
    one is in "All the red cars are here", so the share is 0.5. Case and punctuation are ignored.
    """
    words, others = _words(instruction), _words(output)
    if len(words) < n:
        if len(words) < max(2, n / 2):
            return 0.0
        n = len(words)
    there = {tuple(others[i : i + n]) for i in range(len(others) - n + 1)}
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return sum(gram in there for gram in grams) / len(grams)


def _other_language(instruction: str, output: str, language: str, config: LeakConfig) -> str | None:
    """Returns the language that an instruction is in if it clearly is not the segment's, or None.

    The detector's answer for a text of one sentence is a guess between neighbours, so the distance
    to the segment's language decides. Where the response itself is taken for the instruction's
    language, it is the page that is declared or detected wrongly.
    """
    if not config.check_language or len(instruction) < config.language_characters:
        return None
    text = _detectable(instruction)
    found, distance = detect_fast(text)
    if found in ("unknown", language):
        return None
    # 0 for a language that the detector does not know, so that nothing is judged.
    _, own_distance = detect_fast(text, cutoff=_ANY_DISTANCE, langs=[language])
    if own_distance - distance < config.language_margin:
        return None
    return None if detect_fast(_detectable(output))[0] == found else found


def _detectable(text: str) -> str:
    """Returns a text as the detector's profiles have it: composed, without capitals."""
    return unicodedata.normalize("NFC", text.lower())


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def _echo(instruction: str, prompts: Prompts, echo_words: int) -> str | None:
    """Returns the sentence of the task prompt that the instruction repeats, or None."""
    spaced = f" {' '.join(_words(instruction))} "
    lines = [line.strip() for line in instruction.splitlines()]
    for sentence in _sentences(prompts):
        words = _words(sentence)
        if len(words) >= echo_words:
            if f" {' '.join(words)} " in spaced:
                return sentence
        elif any(line.startswith(sentence) for line in lines) and not sentence.isalnum():
            return sentence
    return None


@functools.cache
def _sentences(prompts: Prompts) -> tuple[str, ...]:
    """Returns the sentences of the backward template's own text, and the tags."""
    literals = [literal for literal, *_ in string.Formatter().parse(prompts.backward)]
    pieces = [p.strip() for literal in literals for p in _SENTENCE_END.split(literal)]
    return tuple(dict.fromkeys(p for p in (*pieces, *prompts.tags) if _WORD.search(p)))
