import pytest

from keras_lm.errors import UserError
from keras_lm.preparation.settings import PreparationSettings
from keras_lm.tokenizers import ByteTokenizer


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corpus": ()}, "corpus must name a text"),
        ({"document": "page"}, "unknown document 'page'"),
        ({"tokenizer": "wordpeice"}, "did you mean 'wordpiece'"),
        ({"clean": ("lowr",)}, "did you mean 'lower'"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"shard_tokens": -1}, "shard_tokens must be at least 1"),
        ({"tokenizer": "word", "vocabulary_size": 261}, "vocabulary_size must be at least 262 for the tokenizer word, got 261"),
        ({"vocabulary_size": 4}, "vocabulary_size must be at least 5 for the tokenizer char, got 4"),
        ({"vocabulary_sample": 0}, "vocabulary_sample must be at least 1"),
        ({"tokenizer_from": "nosuch"}, "nosuch holds no tokenizer"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(UserError, match=message):
        PreparationSettings(**{"corpus": ("a.txt",), **values})


def test_a_tokenizer_that_is_ready_is_not_described_as_well(tmp_path):
    ByteTokenizer().save(tmp_path)
    assert PreparationSettings(corpus=("a.txt",), tokenizer_from=str(tmp_path)).tokenizer is None
    for values in ({"tokenizer": "byte"}, {"vocabulary_size": 260}):
        with pytest.raises(UserError, match=r"leave \w+ out"):
            PreparationSettings(corpus=("a.txt",), tokenizer_from=str(tmp_path), **values)
