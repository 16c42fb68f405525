import json

import pytest
from small_tokenizers import LLAMA3_SPECIAL, json_files, llama2_json, llama3, llama3_json

from humpback_jax.data.json_tokenizer import JsonTokenizer
from humpback_jax.errors import UserError


def _ids(spec):
    """Returns the id of every token of a tokenizer.json."""
    spec = json.loads(spec)
    return spec["model"]["vocab"] | {t["content"]: t["id"] for t in spec["added_tokens"]}


def _renamed(spec, **names):
    """Returns a tokenizer.json with some of its added tokens under other names."""
    for old, new in zip(LLAMA3_SPECIAL, names.values(), strict=False):
        spec = spec.replace(json.dumps(old), json.dumps(new))
    return spec


def _pair(spec, **others):
    """Returns the names of (BOS, EOS)."""
    tokenizer = JsonTokenizer(json_files(spec, **others))
    names = {number: name for name, number in _ids(spec).items()}
    return names[tokenizer.bos_id], names[tokenizer.eos_id]


def test_the_well_known_names():
    assert _pair(llama3_json()) == ("<|begin_of_text|>", "<|end_of_text|>")
    assert _pair(llama2_json()) == ("<s>", "</s>")


def test_what_tokenizer_config_names_goes_first():
    config = {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|eot_id|>"}
    ids = _ids(llama3_json())
    others = {"config": {"eos_token_id": ids["<|end_of_text|>"]}}
    assert _pair(llama3_json(), tokenizer_config=config, **others)[1] == "<|eot_id|>"
    assert _pair(llama3_json(), special_tokens_map=config, **others)[1] == "<|eot_id|>"
    assert _pair(llama3_json(), tokenizer_config={}, **others)[1] == "<|end_of_text|>"


def test_the_ids_of_the_models_configuration_go_next():
    ids = _ids(llama3_json())
    eos = [ids["<|eot_id|>"], ids["<|end_of_text|>"]]
    assert _pair(llama3_json(), config={"eos_token_id": eos})[1] == "<|eot_id|>"
    both = {"generation_config": {"eos_token_id": eos[1]}, "config": {"eos_token_id": eos}}
    assert _pair(llama3_json(), **both)[1] == "<|end_of_text|>"


def test_what_the_models_configuration_said_goes_with_the_files():
    """A model folder of ours has no config.json, but the same BOS and EOS."""
    files = json_files(llama3_json(), config={"eos_token_id": _ids(llama3_json())["<|eot_id|>"]})
    tokenizer = JsonTokenizer(files)
    again = JsonTokenizer(tokenizer.files())
    assert "config.json" not in tokenizer.files()
    assert (again.bos_id, again.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert again.files() == tokenizer.files()


def test_files_that_say_it_all_are_copied_byte_for_byte():
    config = b'{ "eos_token" :"<|eot_id|>", "chat_template": "x"}'
    files = {**json_files(llama3_json(), config={"vocab_size": 9}), "tokenizer_config.json": config}
    copied = JsonTokenizer(files).files()
    assert copied == {name: files[name] for name in ("tokenizer.json", "tokenizer_config.json")}


def test_qwen_has_no_bos():
    base = _renamed(llama3_json(), bos="<|im_start|>", eos="<|endoftext|>", turn="<|im_end|>")
    assert _pair(base, tokenizer_config={"bos_token": None, "eos_token": "<|im_end|>"}) == (
        "<|endoftext|>",
        "<|im_end|>",
    )
    bare = _renamed(llama3_json(), bos="<|im_start|>", eos="<|im_end|>")
    assert _pair(bare, tokenizer_config={"bos_token": None, "eos_token": "<|im_end|>"}) == (
        "<|im_end|>",
        "<|im_end|>",
    )


def test_every_added_token_is_special_and_some_are_written_out():
    tokenizer, ids = llama3(), _ids(llama3_json())
    for name in (*LLAMA3_SPECIAL, "<tool_call>", "red", "eot", " the "):
        assert ids[name] in tokenizer.special_ids, name
    made = [*tokenizer.encode("a"), ids["<tool_call>"], ids["<|eot_id|>"], *tokenizer.encode(" b")]
    assert tokenizer.decode(made) == "a<tool_call> b"


def test_vocabulary_size_counts_up_to_the_highest_id():
    spec = json.loads(llama3_json())
    spec["added_tokens"][-1]["id"] = 5000
    assert JsonTokenizer(json_files(json.dumps(spec))).vocab_size == 5001


def _broken(name):
    spec = json.loads(llama2_json() if name == "bytes" else llama3_json())
    if name == "bytes":
        del spec["model"]["vocab"]["<0x41>"]
    elif name == "alphabet":
        del spec["model"]["vocab"]["\u010a"]
        spec["model"]["merges"] = []
    elif name == "unigram":
        spec["model"] = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}
    elif name == "no model":
        del spec["model"]
    elif name == "no eos":
        spec = json.loads(_renamed(json.dumps(spec), a="<a>", b="<b>", c="<c>", d="<d>"))
    elif name == "merges":
        del spec["model"]["merges"]
    elif name == "decoder":
        spec["decoder"] = {"type": "Nonsense"}
    return json.dumps(spec).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "tokenizer.json is no JSON"),
        (b"[1]", "tokenizer.json is no JSON object"),
        (_broken("unigram"), "no byte-pair tokenizer .*Unigram"),
        (_broken("no model"), "no byte-pair tokenizer .*model"),
        (_broken("merges"), "no byte-pair tokenizer .*merges"),
        (_broken("bytes"), "no piece for 1 of the 256 bytes"),
        (_broken("alphabet"), "no piece for 1 of the 256 bytes"),
        (_broken("no eos"), "names an eos_token"),
        (_broken("decoder"), "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used(content, message):
    with pytest.raises(UserError, match=message) as caught:
        JsonTokenizer({"tokenizer.json": content})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "others",
    [
        {"tokenizer_config": {"eos_token": "<other>"}},
        {"special_tokens_map": {"bos_token": {"content": "<other>"}}},
        {"config": {"eos_token_id": 99999}},
    ],
)
def test_special_tokens_of_another_model(others):
    with pytest.raises(UserError, match="does not have: copy both from the same model"):
        JsonTokenizer(json_files(llama3_json(), **others))
