import pytest

from keras_lm.errors import UserError
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
