import io

import pytest
import sentencepiece

from humpback_jax import prompts
from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer


@pytest.fixture(scope="session")
def tokenizer() -> SentencePieceTokenizer:
    """A SentencePiece model of LLaMA's kind, trained on the prompts themselves."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter((prompts.RATING + prompts.BACKWARD + prompts.FORWARD).splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())
