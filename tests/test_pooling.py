import numpy as np
import pytest
import tensorflow as tf

from keras_lm import pooling
from keras_lm.pooling import Pooling


@pytest.mark.parametrize("kind", pooling.POOLINGS)
def test_pooling_against_numpy(kind):
    x, lengths = np.random.normal(size=[3, 7, 4]).astype(np.float32), (5, 3, 0)
    pooled = Pooling(kind)(x, tf.sequence_mask(lengths, 7)).numpy()
    of = {"mean": lambda rows: rows.mean(axis=0), "max": lambda rows: rows.max(axis=0), "last": lambda rows: rows[-1]}[kind]
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(pooled[row], of(x[row, :length]) if length else np.zeros(4), rtol=1e-6)


def test_another_pooling_is_refused():
    with pytest.raises(ValueError, match="mean, max, last, got 'sum'"):
        Pooling("sum")
