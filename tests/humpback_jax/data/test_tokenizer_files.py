import pytest
import small_tokenizers

from humpback_jax.data.tokenizer_files import FILE_NAMES, load_tokenizer, write_tokenizer
from humpback_jax.errors import UserError


@pytest.mark.parametrize("name", sorted(small_tokenizers.ALL))
def test_a_tokenizer_is_written_and_read(name, tmp_path):
    tokenizer = small_tokenizers.ALL[name]()
    write_tokenizer(tmp_path, tokenizer)
    assert {path.name for path in tmp_path.iterdir()} == {*tokenizer.files()} <= {*FILE_NAMES}
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.encode("the cat") == tokenizer.encode("the cat")


def test_sentencepiece_goes_first(tmp_path):
    write_tokenizer(tmp_path, small_tokenizers.llama2())
    write_tokenizer(tmp_path, small_tokenizers.trained())
    assert load_tokenizer(tmp_path).files() == small_tokenizers.trained().files()


def test_the_models_configuration_names_eos(tmp_path):
    write_tokenizer(tmp_path, small_tokenizers.llama3())
    other = min(small_tokenizers.llama3().special_ids - {small_tokenizers.llama3().eos_id})
    (tmp_path / "config.json").write_text(f'{{"eos_token_id": [{other}, 1]}}')
    assert load_tokenizer(tmp_path).eos_id == other


def test_a_folder_without_one(tmp_path):
    with pytest.raises(UserError, match="has neither tokenizer.model nor tokenizer.json: copy"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_broken_file_is_named_with_its_folder(name, tmp_path):
    (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"^{tmp_path}: {name} is no "):
        load_tokenizer(tmp_path)
