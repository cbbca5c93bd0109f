import pytest
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.errors import UserError


@pytest.mark.parametrize(
    ("names", "before", "after"),
    [
        (["control"], "a\x00b\u200bc\td\n", "abc\td\n"),
        (["whitespace"], "  a \u3000\t b \n\n\n\n c ", "a b\n\nc"),
        (["lower"], "ÀÉ Straße ΣΑΣ", "àé straße σας"),
        (["nfkc"], "ＡＢ１２％㎏", "AB12%kg"),
        (["nfkc", "lower", "whitespace"], " Ａ\u3000Ｂ ", "a b"),
        ([], " as it is ", " as it is "),
    ],
)
def test_cleaners(names, before, after):
    clean = cleaning.compose(names)
    assert clean(tf.constant([before])).numpy()[0].decode() == after
    in_pipeline = tf.data.Dataset.from_tensor_slices([before]).map(clean)
    assert next(in_pipeline.as_numpy_iterator()).decode() == after


def test_unknown_cleaner_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'lower'"):
        cleaning.compose(["lowr"])
