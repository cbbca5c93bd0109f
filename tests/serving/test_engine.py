import json
import random
import threading
import time

import keras
import pytest
import tensorflow as tf

from keras_lm.byte_pairs import BytePairTokenizer, byte_letters
from keras_lm.cleaning import compose
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.export.saved_model import export_model
from keras_lm.export.stepping import plain_functions, step_signature
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import TextGenerator, prompt_ids
from keras_lm.models import gru_lm, lstm_lm, transformer_lm
from keras_lm.serving.engine import Engine, EngineClosed, Piece, QueueFull, _reader
from keras_lm.tokenizer_base import SPECIAL
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer

SIZES = {"embedding_dim": 16, "num_layers": 2}
MODELS = {
    "lstm": lambda: lstm_lm(260, hidden_dim=16, **SIZES),
    "gru": lambda: gru_lm(260, hidden_dim=16, **SIZES),
    "transformer": lambda: transformer_lm(260, context_length=40, num_heads=2, **SIZES),
}


def model_of(name):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    model.set_weights([weights * 3 for weights in model.get_weights()])
    return model


def small_export(model, folder, older=False):
    """What the engine reads of an export: all of one takes ten times as long to write."""
    decoder, version = Decoder(model), folder / "small" / "1"
    step = step_signature(decoder, unknown_id=1)
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    for name, function in {} if older else plain_functions(decoder).items():
        setattr(module, name, function)
    tf.saved_model.save(module, str(version), signatures={"step": step.function})
    ByteTokenizer().save(version / layout.TOKENIZER)
    metadata = {"model": model.name, "context_length": decoder.context_length, "vocabulary_size": 260, "documents": True, "clean": []}
    metadata |= {"needs_tensorflow_text": False, "signatures": {"step": step.describe()}}
    (version / layout.METADATA).write_text(json.dumps(metadata))
    return version


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    model = model_of("transformer")
    return model, small_export(model, tmp_path_factory.mktemp("transformer"))


@pytest.fixture
def engine(transformer):
    engine = Engine(transformer[1], max_batch=2, max_queue=3, xla=False)
    yield engine
    engine.close(finish=False)


class Answer:
    """What is delivered of a text."""

    def __init__(self):
        self.pieces, self.ended = [], threading.Event()

    def __call__(self, piece):
        assert not self.ended.is_set()
        self.pieces.append(piece)
        if piece.finish_reason:
            self.ended.set()

    def wait(self):
        assert self.ended.wait(60)
        return self

    @property
    def text(self):
        return "".join(piece.text for piece in self.pieces)

    @property
    def reason(self):
        return self.pieces[-1].finish_reason

    @property
    def num_tokens(self):
        return sum(piece.num_tokens for piece in self.pieces)

    @property
    def tokens(self):
        return [token for piece in self.pieces for token in piece.tokens]


def asked(engine, prompt, settings):
    answer = Answer()
    engine.submit(prompt, settings, answer)
    return answer


LONG = SamplingSettings(max_new_tokens=3000, min_new_tokens=3000, when_full="slide")
SHORT = SamplingSettings(max_new_tokens=3)
REQUESTS = [
    ("a", {"temperature": 0.0}),
    ("Once upon", {"seed": 1}),
    ("", {"seed": 2, "repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.3}),
    ("of many words", {"seed": 3, "no_repeat_ngram_size": 2, "top_p": 0.8}),
    ("bias", {"seed": 4, "logit_bias": ("e=4", "t=3"), "forbid": ("x",), "top_k": 20}),
    ("stop", {"seed": 5, "logit_bias": ("a=8", "b=8", "c=8"), "stop": ("abcd", "bc", "ca")}),
    ("stop at the limit", {"seed": 5, "logit_bias": ("a=9", "b=9"), "stop": ("ab", "ba"), "max_new_tokens": 2}),
    ("long", {"seed": 6, "min_new_tokens": 25, "max_new_tokens": 30}),
    ("a prompt that leaves little room", {"seed": 7, "min_new_tokens": 25}),
    ("and slides", {"seed": 8, "min_new_tokens": 60, "max_new_tokens": 64, "when_full": "slide"}),
    ("probable", {"seed": 9, "top_logprobs": 5, "stop": ("q", "w", "e", "r", "t")}),
    ("好", {"seed": 10, "min_p": 0.02, "typical_p": 0.9, "epsilon_cutoff": 0.001, "eta_cutoff": 0.001}),
]


def check_answers(engine, model):
    """Texts asked for by several threads at times of their own are those of the library."""
    wanted = [(prompt, SamplingSettings(**{"max_new_tokens": 25, **knobs})) for prompt, knobs in REQUESTS]
    rng, answers = random.Random(0), {}

    def ask(numbers):
        for number in numbers:
            time.sleep(rng.random() * 0.02)
            answers[number] = asked(engine, *wanted[number])

    threads = [threading.Thread(target=ask, args=[range(first, len(wanted), 3)]) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    generator = TextGenerator(model, ByteTokenizer(), jit_compile=False)
    for number, (prompt, settings) in enumerate(wanted):
        (alone,) = generator.generate([prompt], settings)
        answer = answers[number].wait()
        assert (answer.text, answer.reason, answer.num_tokens) == (alone.text, alone.finish_reason, alone.num_tokens), settings
        assert [token.text for token in answer.tokens] == [token.text for token in alone.tokens or []]
        assert [len(token.alternatives) for token in answer.tokens] == [5] * len(answer.tokens)
    assert (engine.running, engine.waiting) == (0, 0)


@pytest.mark.parametrize("name", [pytest.param("lstm", marks=pytest.mark.slow), "gru", "transformer"])
def test_texts_are_those_of_the_library(name, tmp_path):
    model = model_of(name)
    engine = Engine(small_export(model, tmp_path), max_batch=3, xla=False)
    check_answers(engine, model)
    engine.close()


@pytest.mark.parametrize("name", ["transformer", pytest.param("gru", marks=pytest.mark.slow)])
def test_of_an_older_export_too(name, tmp_path):
    """Which has `step` alone."""
    model = model_of(name)
    engine = Engine(small_export(model, tmp_path, older=True), max_batch=3)
    check_answers(engine, model)
    engine.close()


@pytest.mark.slow
def test_of_a_whole_export_compiled_by_xla(tmp_path):
    model, told = model_of("transformer"), []
    version = export_model(model, ByteTokenizer(), tmp_path / "tiny")
    engine = Engine(version, max_batch=4, progress=told.append)
    assert (engine.name, engine.context_length, engine.vocabulary_size) == ("tiny", 40, 260)
    assert told[0] == f"loading {version}"
    assert told[-1] == "drawing 4 texts in 72 slots"  # 40 of the context, and 32 in which a text may begin later
    check_answers(engine, model)
    engine.close()


def test_who_goes_away_makes_room(engine):
    first, second = asked(engine, "a", LONG), asked(engine, "b", LONG)
    while engine.running < 2:
        time.sleep(0.01)
    waiting, answer = Answer(), Answer()
    ticket = engine.submit("c", SHORT, waiting)
    gone = engine.submit("d", SHORT, answer)
    assert (ticket.num_prompt_tokens, engine.count_tokens("c")) == (2, 2)
    gone.cancel()
    assert answer.wait().pieces == [Piece("", [], 0, "cancelled")]
    assert not waiting.pieces
    while not (first.pieces and second.pieces):  # the second may be read while the first is being drawn
        time.sleep(0.01)
    assert (engine.running, engine.waiting) == (2, 1)
    next(iter(engine._running)).cancel()
    assert waiting.wait().num_tokens == 3
    assert {first.reason, second.reason} == {"cancelled", ""}


@pytest.mark.parametrize("clean", [[], ["lower"]])
@pytest.mark.parametrize("documents", [True, False])
@pytest.mark.parametrize("kind", ["byte", "char", "gpt2"])
def test_prompts_are_read_as_the_library_reads_them(kind, documents, clean):
    merges = BytePairTokenizer([*byte_letters(), "lo", "low", "<e>"], [("l", "o"), ("lo", "w")], dict.fromkeys(SPECIAL, 258))
    tokenizer = {"byte": ByteTokenizer(), "char": CharacterTokenizer(["a", "我"]), "gpt2": merges}[kind]
    prompts = ["", "low LOw", "a我\0你\n", "\ufffd"]
    expected = prompt_ids(tokenizer, compose(clean)(tf.constant(prompts)), documents).to_list()
    read = _reader(tokenizer, clean, documents)
    assert [read(prompt) for prompt in prompts] == expected


def test_a_queue_has_an_end(engine):
    running = [asked(engine, "a", LONG) for _ in range(2)]
    while engine.running < 2:
        time.sleep(0.01)
    waiting = [asked(engine, "b", LONG) for _ in range(3)]
    with pytest.raises(QueueFull, match="3 requests wait already, which is the most"):
        engine.submit("c", SHORT, Answer())
    engine.close(finish=False)
    assert {answer.wait().reason for answer in running + waiting} == {"cancelled"}
    with pytest.raises(EngineClosed, match="small takes no more requests"):
        engine.submit("d", SHORT, Answer())


def test_what_was_asked_for_is_finished_at_the_end(transformer):
    engine = Engine(transformer[1], max_batch=2, xla=False)
    answers = [asked(engine, "a", SHORT) for _ in range(5)]
    engine.close()
    assert [answer.num_tokens for answer in answers] == [3] * 5
    engine = Engine(transformer[1], max_batch=2, xla=False)
    answer = asked(engine, "a", LONG)
    engine.close(timeout=0.1)
    assert answer.wait().reason == "cancelled"


def test_a_step_that_fails_ends_its_texts_and_no_other(engine, monkeypatch):
    step = engine._batch.step

    def fail(most):
        monkeypatch.setattr(engine._batch, "step", step)
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    before = asked(engine, "a", LONG)
    while not before.pieces:
        time.sleep(0.01)
    expected = asked(engine, "b", SHORT).wait().text
    monkeypatch.setattr(engine._batch, "step", fail)
    assert before.wait().reason == "error"
    assert asked(engine, "b", SHORT).wait().text == expected
    for reads, prompt in {"read": "b" * 9, "join_unread": "b"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(engine._batch, reads, lambda newcomers: 1 // 0)
            assert asked(engine, prompt, SHORT).wait().reason == "error"
        assert asked(engine, "b", SHORT).wait().text == expected


def test_a_caller_that_fails_harms_no_other(engine):
    other = asked(engine, "a", SamplingSettings(max_new_tokens=20, min_new_tokens=20))
    engine.submit("b", LONG, lambda piece: 1 // 0)
    assert other.wait().num_tokens == 20
    assert asked(engine, "c", SHORT).wait().num_tokens == 3
    while engine.running:
        time.sleep(0.01)


def test_what_cannot_be_asked_for(engine):
    for prompt, knobs, message in (
        ("a" * 39, {}, f"the prompt '{'a' * 20}...' has 40 tokens; the context of 40 has room for 39: shorten it"),
        ("a", {"num_samples": 2}, "num_samples must be 1 for a request, got 2: send several"),
        ("a", {"allow": "[a-z]+"}, "a server knows no allow: generate from the run folder"),
        ("a", {"forbid": ("ab",)}, "'ab' is 2 tokens of this tokenizer: logit_bias and forbid need exactly one token"),
    ):
        with pytest.raises(UserError) as error:
            engine.submit(prompt, SamplingSettings(**knobs), Answer())
        assert str(error.value) == message
    assert asked(engine, "half of a pair: \ud83d", SamplingSettings(max_new_tokens=3, stop=("\udc00",))).wait().pieces


def test_only_what_goes_on_with_prompts(tmp_path):
    (tmp_path / "labels" / "1" / "assets.extra").mkdir(parents=True)
    (tmp_path / "labels" / "1" / "saved_model.pb").touch()
    (tmp_path / "labels" / "1" / layout.METADATA).write_text(json.dumps({"model": "classifier", "signatures": {"serving_default": {}}}))
    with pytest.raises(UserError, match=r"labels does not go on with prompts \(classifier\): ask its signatures, by :predict"):
        Engine(tmp_path / "labels" / "1")
    with pytest.raises(UserError, match="no such folder"):
        Engine(tmp_path / "nothing")
