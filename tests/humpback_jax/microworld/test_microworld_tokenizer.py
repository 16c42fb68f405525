import pytest
from sentencepiece import sentencepiece_model_pb2

from humpback_jax import prompts
from humpback_jax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from humpback_jax.microworld import templates
from humpback_jax.microworld.language import NAMES
from humpback_jax.microworld.pretraining import PretrainingConfig, documents
from humpback_jax.microworld.questions import make_questions
from humpback_jax.microworld.segments import web_texts
from humpback_jax.microworld.tokenizer import VOCABULARY_MULTIPLE, build_tokenizer, world_pieces
from humpback_jax.microworld.world import WorldConfig, make_world

CONFIG = WorldConfig()
WORLD = make_world(CONFIG)
PROMPTS = prompts.Prompts(
    forward=templates.FORWARD,
    backward=templates.BACKWARD,
    rating=templates.RATING,
    score=templates.SCORE,
)
NEWLINE = 3 + 10


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer(build_tokenizer())


@pytest.fixture(scope="module")
def labels():
    return [text.label for text in web_texts(WORLD, CONFIG)]


def test_the_model_is_the_same_each_time_and_has_llamas_special_pieces(tokenizer):
    assert build_tokenizer() == tokenizer.model
    assert tokenizer.vocab_size % VOCABULARY_MULTIPLE == 0
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
    assert tokenizer.encode("a\n")[-1] == NEWLINE
    assert len(set(world_pieces())) == len(world_pieces())


def test_all_texts_of_the_world_round_trip_without_bytes(tokenizer, labels):
    texts = list(documents(WORLD, PretrainingConfig(), stop=3000))
    texts += [label.text.replace(". ", ".\n\n") for label in labels]
    texts += [question.instruction for question in make_questions(WORLD, CONFIG)]
    for text in texts:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(i == NEWLINE or i >= 259 for i in ids), text


@pytest.mark.parametrize("text", ["Größe 7 ✓", "a  b", " lead", "tail ", "x\n\n\ty", "<s> 9 {a}"])
def test_other_texts_round_trip_by_bytes(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_every_name_is_two_tokens_wherever_it_stands(tokenizer):
    for name in NAMES:
        assert len(tokenizer.encode(name)) == 2
        assert len(tokenizer.encode_continuation(name)) == 2
        assert len(tokenizer.encode(f"in {name}.")) == 4


def test_a_tag_is_one_token(tokenizer):
    for tag in PROMPTS.tags:
        assert len(tokenizer.encode(tag)) == 1
    first, second, newline = tokenizer.encode(" ".join(PROMPTS.tags) + "\n")
    assert first != second
    assert newline == NEWLINE
    model = sentencepiece_model_pb2.ModelProto.FromString(build_tokenizer())
    defined = [
        piece.piece.replace("\u2581", " ").strip() for piece in model.pieces if piece.type == 4
    ]
    assert tuple(defined) == PROMPTS.tags


def test_a_grade_is_one_token_after_the_score(tokenizer, labels):
    prompt = PROMPTS.render_rating("Compare Baldun and Corvik.", labels[0].text) + PROMPTS.score
    start = tokenizer.encode(prompt)
    digits = set()
    for digit in "12345":
        ids = tokenizer.encode(prompt + digit)
        assert ids[:-1] == start
        assert tokenizer.encode_continuation(digit) == ids[-1:]
        digits.add(ids[-1])
    assert len(digits) == 5


def test_a_prompts_tokens_begin_those_of_prompt_and_answer(tokenizer, labels):
    longest = 0
    for label in labels:
        text = label.text.replace(". ", ".\n\n", 1)
        for instruction in label.instructions:
            rating = PROMPTS.render_rating(instruction, text) + PROMPTS.score
            for prompt, answer in (
                (PROMPTS.render_forward(instruction, *PROMPTS.tags), text),
                (PROMPTS.render_backward(text), instruction),
                (rating, "4"),
            ):
                start = tokenizer.encode(prompt)
                assert tokenizer.encode(prompt + answer)[: len(start)] == start
                ids = tokenizer.encode_example(prompts.Example(prompt, answer))
                assert ids[0] == [1, *start]
                assert tokenizer.decode(ids[1]) == answer
                longest = max(longest, sum(map(len, ids)))
    assert longest <= 128
