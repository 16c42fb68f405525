import pytest
import small_tokenizers
from small_tokenizers import TEXTS

from humpback_jax import prompts
from humpback_jax.data.sentencepiece_tokenizer import (
    MODEL_NAME,
    SentencePieceTokenizer,
    train_tokenizer,
)
from humpback_jax.errors import UserError


def test_training_gives_the_vocabulary_that_was_asked_for():
    tokenizer = train_tokenizer(TEXTS, 320)
    assert tokenizer.vocab_size == 320
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.special_ids == {0, 1, 2}
    assert train_tokenizer(TEXTS, 320).model == tokenizer.model
    assert tokenizer.files() == {MODEL_NAME: tokenizer.model}


def test_a_user_defined_piece_is_a_word():
    tokenizer = small_tokenizers.packaged()
    assert len(tokenizer.encode(prompts.WEB_TAG)) == 1
    assert tokenizer.decode(tokenizer.encode(prompts.WEB_TAG)) == prompts.WEB_TAG


def test_control_and_unused_pieces_are_special():
    special = small_tokenizers.packaged().special_ids
    assert {0, 1, 2, 915} <= special
    assert not special & set(range(3, 259))  # the bytes


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 64])
def test_a_file_that_is_no_model(content):
    with pytest.raises(UserError, match=f"{MODEL_NAME} is no SentencePiece model"):
        SentencePieceTokenizer(content)


def test_half_a_file_is_no_model():
    model = small_tokenizers.trained().model
    with pytest.raises(UserError, match=f"{MODEL_NAME} "):
        SentencePieceTokenizer(model[: len(model) // 2])


@pytest.mark.parametrize(("texts", "size"), [(TEXTS, 100), (["one word"], 5000), ([], 320)])
def test_a_vocabulary_that_cannot_be_made(texts, size):
    with pytest.raises(UserError) as caught:
        train_tokenizer(texts, size)
    message = str(caught.value)
    assert message.startswith(f"no tokenizer of {size} pieces can be made of the text")
    assert "\n" not in message
