import dataclasses
import re

import numpy as np
import pytest

from keras_lm.classical.ngram import NGramModel
from keras_lm.errors import UserError
from keras_lm.generation.automata import Choice, Regex
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer
from tests.conftest import scripted_model
from tests.test_models import build


@pytest.fixture
def speaker():
    """A model that goes on with «床前明月光。» from wherever the prompt has come to."""
    text = "床前明月光。"
    tokenizer = CharacterTokenizer.fit([text])
    ids = tokenizer.tokenize([text]).to_list()[0]
    return TextGenerator(
        scripted_model([tokenizer.start_id, *ids, tokenizer.end_id], tokenizer.vocabulary_size), tokenizer, jit_compile=False
    )


def test_text_in_text_out(speaker):
    results = speaker.generate(["床前", "", "床前明月光"], temperature=0.0)
    assert [result.text for result in results] == ["明月光。", "床前明月光。", "。"]
    assert [result.finish_reason for result in results] == ["end"] * 3
    assert [result.num_tokens for result in results] == [5, 7, 2]


def test_stop_strings_are_cut_off(speaker):
    result = speaker.generate(["床"], temperature=0.0, stop=("月光", "光"))[0]
    assert (result.text, result.finish_reason) == ("前明", "stop")


def test_a_byte_model_may_stop_inside_a_character():
    generator = TextGenerator(build("gru", vocabulary_size=260), ByteTokenizer(), jit_compile=False)
    assert isinstance(generator.generate(["中"], max_new_tokens=1, temperature=3.0)[0].text, str)


def test_cleaners_are_applied_to_the_prompt(speaker):
    cleaned = TextGenerator(speaker.model, speaker.tokenizer, clean=["whitespace"], jit_compile=False)
    assert cleaned.generate([" \t 床前 "], temperature=0.0)[0].text == "明月光。"


def test_one_long_text_begins_with_the_prompt_itself(speaker):
    generator = TextGenerator(speaker.model, speaker.tokenizer, documents=False, jit_compile=False)
    assert generator.generate(["", "明"], temperature=0.0, max_new_tokens=2)[0].text == "床前"


def test_prompt_longer_than_the_context():
    generator = TextGenerator(build("transformer", vocabulary_size=260), ByteTokenizer())
    with pytest.raises(UserError, match=r"the prompt 'a{20}\.\.\.' has 31 tokens; the context of 16 has room for 15"):
        generator.generate(["a" * 30])


def test_no_prompts():
    assert TextGenerator(build("gru", vocabulary_size=260), ByteTokenizer()).generate([]) == []


def test_a_stream_is_the_text_in_whole_characters():
    generator = TextGenerator(build("gru", vocabulary_size=260), ByteTokenizer(), jit_compile=False)
    for seed in range(5):
        knobs = {"max_new_tokens": 40, "temperature": 2.0, "seed": seed}
        pieces = list(generator.stream("中", chunk_size=3, **knobs))
        assert all(pieces)
        assert "".join(pieces) == generator.generate(["中"], **knobs)[0].text


def test_a_stream_holds_back_what_may_become_a_stop_string(speaker):
    assert list(speaker.stream("床", temperature=0.0, stop=("月亮", "光。"), chunk_size=1)) == ["前", "明", "月"]


def test_tokens_with_their_log_probabilities(speaker):
    result = speaker.generate(["床前"], temperature=0.0, top_logprobs=2)[0]
    assert "".join(token.text for token in result.tokens) == result.text
    for token in result.tokens:
        assert token.alternatives[0] == (token.text, token.logprob)
        assert len(token.alternatives) == 2


def test_samples_of_a_prompt_stand_side_by_side(speaker):
    results = speaker.generate(["床", "床前明"], temperature=0.0, num_samples=2)
    assert [result.text for result in results] == ["前明月光。"] * 2 + ["月光。"] * 2


def test_bias_and_forbidden_tokens_are_text(speaker):
    assert "月" not in speaker.generate(["床"], temperature=0.0, forbid=("月",))[0].text
    assert speaker.generate(["床"], temperature=0.0, logit_bias=("光=1000",), max_new_tokens=2)[0].text == "光光"
    with pytest.raises(UserError, match="'月光' is 2 tokens of this tokenizer: logit_bias and forbid need exactly one token"):
        speaker.generate(["床"], forbid=("月光",))
    with pytest.raises(UserError, match="'雪' is unknown to this tokenizer"):
        speaker.generate(["床"], forbid=("雪",))


def test_what_is_allowed(speaker):
    for knobs in (
        {"allow": Regex("[月光]{3}")},
        {"settings": SamplingSettings(allow="[月光]{3}")},
        {"allow": Choice(["光月光", "月月月"])},
    ):
        result = speaker.generate(["床"], **knobs)[0]
        assert re.fullmatch("[月光]{3}", result.text)
        assert result.finish_reason == "end"


def test_each_prompt_has_its_own_rule(speaker):
    rules, patterns = [Regex("月[床光]+"), None, Choice(["光光", "明"])], ["月[床光]+", "明月光。", "光光|明"]
    prompts, knobs = ["床", "床前", "床"], {"max_new_tokens": 8}
    sampled = speaker.generate(prompts, temperature=0.0, allow=rules, num_samples=2, **knobs)
    by_beams = [beams[0] for beams in speaker.beam_search(prompts, allow=rules, **knobs)]
    for texts in (sampled[::2], sampled[1::2], by_beams, speaker.contrastive_search(prompts, alpha=0.1, allow=rules, **knobs)):
        for text, pattern in zip(texts, patterns, strict=True):
            assert re.fullmatch(pattern, text.text)
    assert "".join(speaker.stream("床", allow=rules[0], seed=3)) == speaker.generate(["床"], allow=rules[:1], seed=3)[0].text
    with pytest.raises(UserError, match="allow must be one for all prompts, or one for each of the 2, got 3"):
        speaker.generate(prompts[:2], allow=rules)


def test_a_limit_below_the_shortest_text_is_refused(speaker):
    for search in (speaker.generate, speaker.beam_search, speaker.contrastive_search):
        with pytest.raises(UserError, match="the shortest text that is allowed has 4 tokens: raise max_new_tokens from 3"):
            search(["床", "前"], allow=[None, Regex("月{4,}")], max_new_tokens=3)
    generator = TextGenerator(build("transformer", vocabulary_size=260), ByteTokenizer(), jit_compile=False)  # context 16
    with pytest.raises(UserError, match="the shortest text that is allowed has 9 tokens: behind its prompt the context has room for 8"):
        generator.generate(["1234567"], allow=Regex("a{9}"))
    assert generator.generate(["1234567"], allow=Regex("a{9}"), when_full="slide")[0].text == "a" * 9


def test_any_value_that_compiles_to_a_constraint_is_a_rule(speaker):
    @dataclasses.dataclass(frozen=True)
    class Twice:
        text: str

        def compile(self, pieces, special):
            return Choice([self.text * 2]).compile(pieces, special)

    assert speaker.generate(["床"], allow=[Twice("月")])[0].text == "月月"


def test_an_n_gram_model_ends_its_texts_too():
    tokenizer = ByteTokenizer()
    ids = np.array([2, *(value + 4 for value in b"abababab"), 3])
    model = NGramModel.fit(ids, order=2, vocabulary_size=tokenizer.vocabulary_size, smoothing="add_k")
    texts = TextGenerator(model, tokenizer).generate(["a", "b"], allow=[Regex("(ba)*c"), None], max_new_tokens=7, num_samples=5)
    assert all(re.fullmatch("(ba)*c", text.text) for text in texts[:5])
    assert not any(re.fullmatch("(ba)*c", text.text) for text in texts[5:])


def test_searches_at_the_level_of_text(speaker):
    ((best, second),) = speaker.beam_search(["床前"], num_beams=3, num_return=2)
    assert best.text == "明月光。"
    assert best.score >= second.score
    assert speaker.beam_search(["床前"], stop=["光"])[0][0].text == "明月"
    assert speaker.contrastive_search(["床前", "床前明"], alpha=0.1)[1].text == "月光。"


@pytest.mark.slow
def test_guessing_ahead_changes_no_greedy_text():
    model = build("transformer", vocabulary_size=260)
    plain, knobs = TextGenerator(model, ByteTokenizer(), jit_compile=False), {"temperature": 0.0, "max_new_tokens": 9}
    for draft in (build("gru", vocabulary_size=260), "lookup"):
        guessing = TextGenerator(model, ByteTokenizer(), draft=draft, jit_compile=False)
        assert guessing.generate(["abab"], **knobs) == plain.generate(["abab"], **knobs)
    with pytest.raises(UserError, match="speculative decoding knows no stop"):
        guessing.generate(["a"], stop=("b",))
