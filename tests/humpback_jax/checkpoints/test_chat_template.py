import json

import jinja2
import pytest
import small_tokenizers

from humpback_jax.checkpoints.chat_template import TEMPLATE_NAME, chat_template, tokenizer_files
from humpback_jax.data.json_tokenizer import JsonTokenizer
from humpback_jax.microworld import templates
from humpback_jax.prompts import Prompts

TEMPLATES = {
    "ours": Prompts(),
    "microworld": Prompts(forward=templates.FORWARD),
    "spaces": Prompts(forward="{tags}\n\n{instruction} Answer:  "),
    "tags last": Prompts(forward="Q: {instruction}\n[{tags}]"),
    "twice": Prompts(forward="{instruction}{instruction}{tags}"),
    "jinja": Prompts(forward="{{% if x %}} {{{{ y }}}} {{# z #}}\n{tags} {instruction} @BOS@"),
    "quotes": Prompts(
        assistant_tag='It\'s "quoted" \\n {braces}',
        web_tag="Ünï\t😀\u2028\x07",
        forward="'{tags}'\\ \r\n\"{instruction}\"\n",
    ),
}
INSTRUCTIONS = [
    "What is red?",
    " spaces around  ",
    "{{ bos_token }} {% raw %} {tags} 'a' \"b\" \\n\n\tend",
    "😀",
    "",
]


def _render(template, messages, **options):
    def raise_exception(message):
        raise ValueError(message)

    # The environment of transformers, and a plain one.
    given = {"messages": messages, "raise_exception": raise_exception, **options}
    results = {
        jinja2.Environment(trim_blocks=trim, lstrip_blocks=trim).from_string(template).render(given)
        for trim in (True, False)
    }
    (result,) = results
    return result


def _user(content):
    return {"role": "user", "content": content}


def _assistant(content):
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_a_message_is_the_prompt_that_the_model_was_trained_on(name, instruction):
    prompts = TEMPLATES[name]
    template = chat_template(prompts, "<s>", "</s>")
    prompt = prompts.render_forward(instruction, *prompts.tags)
    rendered = _render(template, [_user(instruction)], add_generation_prompt=True)
    assert rendered == "<s>" + prompt.rstrip(" ")


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_answer_ends_with_eos(name):
    prompts = TEMPLATES[name]
    template = chat_template(prompts, "<|begin|>", "<|end|>")
    first, second = (prompts.render_forward(x, *prompts.tags) for x in ("A", "B  "))
    messages = [_user("A"), _assistant(" yes {x}"), _user("B  ")]
    one = f"<|begin|>{first} yes {{x}}<|end|>"
    assert _render(template, messages[:2]) == one
    assert _render(template, messages) == one + f"<|begin|>{second}".rstrip(" ")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be good."}, _user("A")],
        [_assistant("A")],
        [_user("A"), _user("B")],
        [_user("A"), {"role": "tool", "content": "B"}],
    ],
)
def test_other_conversations_are_refused(messages):
    with pytest.raises(ValueError, match="user and assistant in turn"):
        _render(chat_template(Prompts(), "<s>", "</s>"), messages)


@pytest.mark.parametrize("field", ["{instruction!r}", "{instruction:>20}"])
def test_a_formatted_field_is_refused(refused, field):
    prompts = Prompts(forward="{tags} " + field)
    refused(lambda: chat_template(prompts, "<s>", "</s>"), "Prompts.forward", "'instruction'")


def test_the_files_of_a_sentencepiece_model():
    tokenizer = small_tokenizers.packaged()
    files = tokenizer_files(tokenizer, Prompts(), 256)
    assert files["tokenizer.model"] == tokenizer.model
    config = json.loads(files["tokenizer_config.json"])
    assert config["tokenizer_class"] == "LlamaTokenizer"
    assert (config["bos_token"], config["eos_token"], config["model_max_length"]) == (
        "<s>",
        "</s>",
        256,
    )
    assert config["chat_template"].encode() == files[TEMPLATE_NAME]
    assert TEMPLATE_NAME not in tokenizer_files(tokenizer, None, 256)


def test_the_files_of_a_tokenizer_json():
    spec = small_tokenizers.llama3_json()
    given = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": "old"}
    source = {"tokenizer.json": spec.encode(), "tokenizer_config.json": json.dumps(given).encode()}
    tokenizer = JsonTokenizer(source)
    files = tokenizer_files(tokenizer, Prompts(), 256)
    assert files["tokenizer.json"] == spec.encode()
    config = json.loads(files["tokenizer_config.json"])
    assert config == {**given, "chat_template": files[TEMPLATE_NAME].decode()}
    rendered = _render(config["chat_template"], [_user("A"), _assistant("B")])
    assert rendered.startswith("<|begin_of_text|>Answer")
    assert rendered.endswith("B<|eot_id|>")
    assert tokenizer_files(tokenizer, None, 256)["tokenizer_config.json"]
    again = JsonTokenizer(files)
    assert (again.bos_id, again.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
