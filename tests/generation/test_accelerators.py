"""Whether the sampler lowers to HLO for a GPU, which can be seen on a machine without one.

For a TPU this stops in TensorFlow 2.21's pip package: its XLA_TPU_JIT has no kernels at all (`StridedSlice` is the first it misses).
"""

import re

import keras
import pytest
import tensorflow as tf

from keras_lm.generation import automata, decode
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from tests.test_models import SMALL, build

PIECES = [b"", b"?", b"", b"", *(bytes([97 + letter]) for letter in range(16))]
ON_THE_HOST = {"custom-call", "infeed", "outfeed", "send", "recv", "rng", "rng-bit-generator"}


def hlo_for_gpu(function, variables, *inputs):
    """The HLO of a function whose weights come in as inputs: without a GPU there is no device that could hold variables."""

    def run(weights, *inputs):
        with keras.StatelessScope(state_mapping=list(zip(variables, weights, strict=True))):
            return function(*inputs)

    compiled = tf.function(run, jit_compile=True, autograph=False)
    weights = [tf.constant(variable.numpy()) for variable in variables]
    return compiled.experimental_get_compiler_ir(weights, *inputs)(stage="hlo", platform_name="GPU")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in ("lstm", "transformer") else pytest.mark.slow) for name in SMALL])
def test_begin_and_advance_lower_for_a_gpu(name):
    decoder = Decoder(build(name))
    variables = decoder.model.variables
    constraint = automata.Regex("[a-c]+").compile(PIECES)
    tables = {
        "bias": tf.zeros([1, 20]),
        "stop": automata.StopStrings([b"a"]).tensors(),
        "pieces": automata.PieceTable(PIECES).tensors(),
        "constraint": constraint.tensors(),
        "limit": tf.fill([4], 12),
    }

    def begin(prompt, padding):
        carry = decode.begin(decoder, prompt, padding, slots=16, samples=2, alternatives=5)
        return {**carry, "place": tf.fill([4], automata.START)}

    def advance(carry, knobs, tables, room, until):
        rules = decode.Rules(end_id=3, degree=constraint.degree, **tables)
        return decode.advance(decoder, carry, decode.Knobs(**knobs), rules, room=room, until=until)

    prompt, padding = tf.constant([[5, 6, 7], [0, 8, 9]]), tf.constant([0, 1])
    knobs = vars(decode.Knobs.of(SamplingSettings(), 4))
    texts = (
        hlo_for_gpu(begin, variables, prompt, padding),
        hlo_for_gpu(advance, variables, begin(prompt, padding), knobs, tables, tf.fill([4], 13), tf.constant(3)),
    )
    for text in texts:
        operations = set(re.findall(r" ([a-z][a-z-]*)\(", text))
        assert {"dot", "gather"} <= operations  # the text was read as meant
        assert not operations & ON_THE_HOST
        assert "Cudnn" not in text
        assert not re.search(r"\[[0-9,]*<=", text)  # a dimension known by its bound alone
    assert "while" in operations
