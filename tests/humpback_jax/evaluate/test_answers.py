from humpback_jax.evaluate import answers
from humpback_jax.infer.engine import Result
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.prompts import Prompts
from launch import results

PROMPTS = Prompts(forward="{tags}\n{instruction}\n")
SAMPLING = SamplingConfig(max_new_tokens=4)


class Characters:
    """A tokenizer and an engine in one; prompts of more than 100 characters are too long."""

    def encode_prompt(self, prompt):
        return [ord(c) for c in prompt]

    def decode(self, ids):
        return "".join(map(chr, ids))

    def longest(self, prefix=(), new_tokens=0):
        return 100 - new_tokens

    def generate(self, requests, sampling):
        return [
            Result(r.request_id, (), "too_long")
            if len(r.prompt_ids) > 99
            else Result(r.request_id, (ord("!"),), "stop")
            for r in requests
        ]


def test_a_too_long_instruction_says_its_length_and_the_limit_and_is_counted():
    wanted = {"a": "Why?", "b": "so " * 40}
    rows = answers.answer(Characters(), Characters(), PROMPTS, wanted, SAMPLING)
    length = len(PROMPTS.render_forward(wanted["b"], *PROMPTS.tags))
    detail = f"its prompt of {length} tokens is longer than the 99 there is room for"
    assert [(r["id"], r["answer"], r["finish_reason"], r["detail"]) for r in rows] == [
        ("a", "!", "stop", ""),
        ("b", "", "too_long", detail),
    ]
    counts = results._counts({"M0": rows, "M1": rows[:1]})
    assert str(counts) == "3 in = 2 out + 1 rejected (too_long 1) + 0 errors"
    counts.check("evaluate")
