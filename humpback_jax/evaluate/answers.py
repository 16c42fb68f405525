"""A model's answers to instructions, both tags given, as the paper does at inference."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from humpback_jax import records
from humpback_jax.data.tokenizer import Tokenizer
from humpback_jax.errors import UserError
from humpback_jax.infer.engine import Engine, Request
from humpback_jax.infer.sampling import SamplingConfig
from humpback_jax.method import long_texts
from humpback_jax.prompts import Prompts


def answer(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Prompts,
    instructions: Mapping[str, str],
    sampling: SamplingConfig,
) -> list[dict[str, Any]]:
    """Returns {id, instruction, answer, finish_reason, detail} of each instruction, in their order.

    An instruction that fits no bucket of the engine has an empty answer and says "too_long", with
    the length of its prompt as detail: part of an instruction would be another one.
    """
    requests = [
        Request(key, tokenizer.encode_prompt(prompts.render_forward(text, *prompts.tags)))
        for key, text in instructions.items()
    ]
    results = engine.generate(requests, sampling)
    return [
        {
            "id": result.request_id,
            "instruction": instructions[result.request_id],
            "answer": result.text(tokenizer.decode),
            "finish_reason": result.finish_reason,
            "detail": (
                long_texts.too_long(len(request.prompt_ids), engine.longest(new_tokens=1))
                if result.finish_reason == "too_long"
                else ""
            ),
        }
        for request, result in zip(requests, results, strict=True)
    ]


def read_instructions(path: epath.PathLike) -> dict[str, str]:
    """Returns {id: instruction} of JSON lines with an "instruction" (or "text", or "prompt").

    Raises:
      UserError: a line has none of them.
    """
    instructions = {}
    for number, row in records.read_jsonl(path):
        fields = row if isinstance(row, dict) else {}
        text = fields.get("instruction") or fields.get("text") or fields.get("prompt")
        if not isinstance(text, str):
            raise UserError(f"{path}:{number} has no 'instruction': correct the line or remove it")
        instructions[records.stable_id("prompt", number, text)] = text
    return instructions
