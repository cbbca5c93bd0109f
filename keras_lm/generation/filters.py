"""From logits to the next token: small pure functions on `(batch, vocabulary)` float32, with a knob a row.

Every knob is a `(batch,)` tensor and has a value that switches it off, so that changing it compiles nothing. The filters called `apply` and
`add` move logits; the others leave a token's logit as it is or set it to -inf. Those that look at the whole row are skipped while they are
off in every row; those that look at one logit at a time are not, for XLA makes one pass of them all. None sorts the vocabulary: the k-th
largest value, and the smallest probability inside the nucleus, are found bit by bit, which is exact and takes 32 passes at most.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

FORBIDDEN = float("-inf")


def apply_repetition_penalty(logits: tf.Tensor, counts: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Makes tokens that have occurred less likely: logit/penalty where it is positive, logit·penalty where it is negative.

    Args:
        logits: `(batch, vocabulary)`.
        counts: `(batch, vocabulary)` int32: how often each token has occurred, prompt included.
        penalty: `(batch,)`; 1 switches it off.

    References:
        Keskar et al. 2019, «CTRL».
    """
    penalty = penalty[:, None]
    # One of the two terms is 0. A branch on the sign instead takes XLA three times as long on a CPU.
    penalised = tf.maximum(logits, 0.0) / penalty + tf.minimum(logits, 0.0) * penalty
    return tf.where(counts > 0, penalised, logits)


def apply_presence_penalty(logits: tf.Tensor, counts: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Makes tokens that have been generated less likely, however often they were: logit - penalty where count > 0.

    Args:
        logits: `(batch, vocabulary)`.
        counts: `(batch, vocabulary)` int32: how often each token has been generated, the prompt not counted.
        penalty: `(batch,)`; negative encourages repetition; 0 switches it off.

    References:
        OpenAI, «API Reference», `presence_penalty`.

    Example:

    >>> apply_presence_penalty(tf.zeros([1, 3]), tf.constant([[0, 1, 4]]), tf.constant([0.5])).numpy().tolist()
    [[0.0, -0.5, -0.5]]
    """
    return logits - tf.where(counts > 0, penalty[:, None], 0.0)


def apply_frequency_penalty(logits: tf.Tensor, counts: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Makes tokens less likely each time they are generated: logit - penalty·count.

    Args:
        logits: `(batch, vocabulary)`.
        counts: `(batch, vocabulary)` int32: how often each token has been generated, the prompt not counted.
        penalty: `(batch,)`; negative encourages repetition; 0 switches it off.

    References:
        OpenAI, «API Reference», `frequency_penalty`.

    Example:

    >>> apply_frequency_penalty(tf.zeros([1, 3]), tf.constant([[0, 1, 4]]), tf.constant([0.5])).numpy().tolist()
    [[0.0, -0.5, -2.0]]
    """
    return logits - tf.cast(counts, logits.dtype) * penalty[:, None]


def forbid_repeated_ngrams(logits: tf.Tensor, history: tf.Tensor, begin: tf.Tensor, end: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Forbids each token that would complete an n-gram which the row holds already; size 1 forbids every token that has occurred.

    Args:
        logits: `(batch, vocabulary)`.
        history: `(batch, slots)` int32; the text of row b stands in slots `begin[b]` to `end - 1`, the others hold anything.
        begin: `(batch,)` int32.
        end: `()` int32, shared by the rows.
        size: `(batch,)` int32: the n of the n-grams; 0 switches it off.

    References:
        Paulus et al. 2017, «A Deep Reinforced Model for Abstractive Summarization», section 2.5.

    Example:

    >>> history, begin, end = tf.constant([[5, 1, 2, 3, 1, 2]]), tf.constant([1]), tf.constant(6)
    >>> forbid_repeated_ngrams(tf.zeros([1, 6]), history, begin, end, tf.constant([3])).numpy().tolist()
    [[0.0, 0.0, 0.0, -inf, 0.0, 0.0]]
    """

    def forbid() -> tf.Tensor:
        slots = tf.range(tf.shape(history)[1])[None]
        # A slot repeats what the next token would be where the size - 1 tokens before it equal the last size - 1 of the row.
        repeats = (slots - begin[:, None] >= size[:, None] - 1) & (slots < end) & (size > 0)[:, None]  # (batch, slots)

        def more(back: tf.Tensor, repeats: tf.Tensor) -> tf.Tensor:
            return tf.reduce_any(repeats & (back < size)[:, None])

        def compare(back: tf.Tensor, repeats: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            same = tf.roll(history, back, axis=1) == tf.gather(history, [end - back], axis=1)
            return back + 1, repeats & (same | (back >= size)[:, None])

        _, repeats = tf.while_loop(more, compare, [tf.constant(1), repeats])
        tokens = tf.where(repeats, history, 0)
        rows = tf.zeros_like(tokens) + tf.range(tf.shape(tokens)[0])[:, None]
        return tf.tensor_scatter_nd_min(logits, tf.stack([rows, tokens], axis=-1), tf.where(repeats, FORBIDDEN, -FORBIDDEN))

    return tf.cond(tf.reduce_any(size > 0), forbid, lambda: logits)


def add_bias(logits: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """logits + bias: a number makes its token more or less likely, -inf forbids it.

    Args:
        logits: `(batch, vocabulary)`.
        bias: `(batch, vocabulary)`, or `(1, vocabulary)` for all rows, float32, below +inf; 0 switches it off.

    References:
        OpenAI, «API Reference», `logit_bias`.
    """
    return logits + bias


def hold_back_end(logits: tf.Tensor, num_new: tf.Tensor, min_new_tokens: tf.Tensor, end_id: int) -> tf.Tensor:
    """Forbids the token that ends a text while the row has fewer new tokens than it should.

    Args:
        logits: `(batch, vocabulary)`.
        num_new: `()` or `(batch,)` int32: how many tokens have been generated.
        min_new_tokens: `(batch,)` int32; 0 switches it off.
        end_id: The token that ends a text.

    Example:

    >>> hold_back_end(tf.zeros([2, 3]), tf.constant(4), tf.constant([5, 4]), end_id=1).numpy().tolist()
    [[0.0, -inf, 0.0], [0.0, 0.0, 0.0]]
    """
    is_end = tf.range(logits.shape[-1]) == end_id
    return tf.where((num_new < min_new_tokens)[:, None] & is_end, FORBIDDEN, logits)


def apply_temperature(logits: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """logits / temperature; rows at temperature 0 are left alone, for `choose` takes their largest logit.

    Args:
        logits: `(batch, vocabulary)`.
        temperature: `(batch,)`, 0 or more; 1 switches it off.
    """
    return logits / tf.where(temperature > 0, temperature, 1.0)[:, None]


def keep_top_k(logits: tf.Tensor, top_k: tf.Tensor) -> tf.Tensor:
    """Keeps the k largest logits, and any that equal the k-th.

    Args:
        logits: `(batch, vocabulary)`.
        top_k: `(batch,)` int32; 0 switches it off.

    References:
        Fan et al. 2018, «Hierarchical Neural Story Generation».

    Example:

    >>> keep_top_k(tf.constant([[1.0, 3.0, 2.0]]), tf.constant([2])).numpy().tolist()
    [[-inf, 3.0, 2.0]]
    """

    def keep() -> tf.Tensor:
        # Counted in floats, which are exact up to 2^24: XLA adds them faster than integers on a CPU.
        def count(least: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.where(logits >= least[:, None], 1.0, 0.0), axis=-1)

        least = _least_kept(count, tf.cast(top_k, tf.float32), lightest=tf.ones_like, off=top_k <= 0)
        return tf.where(logits >= least[:, None], logits, FORBIDDEN)

    return tf.cond(tf.reduce_any(top_k > 0), keep, lambda: logits)


def keep_top_p(logits: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Keeps the nucleus: the smallest set of most probable tokens whose probabilities sum to at least p, and any that equal its last.

    Args:
        logits: `(batch, vocabulary)`.
        top_p: `(batch,)` in (0, 1]; 1 switches it off.

    References:
        Holtzman et al. 2020, «The Curious Case of Neural Text Degeneration».

    Example:

    >>> kept = keep_top_p(tf.math.log([[0.5, 0.3, 0.2]]), tf.constant([0.7]))
    >>> tf.math.is_finite(kept).numpy().tolist()
    [[True, True, False]]
    """

    def keep() -> tf.Tensor:
        probabilities = tf.nn.softmax(logits)

        def mass(least: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.where(probabilities >= least[:, None], probabilities, 0.0), axis=-1)

        least = _least_kept(mass, top_p, lightest=tf.identity, off=top_p >= 1.0)
        return tf.where(probabilities >= least[:, None], logits, FORBIDDEN)

    return tf.cond(tf.reduce_any(top_p < 1.0), keep, lambda: logits)


def keep_min_p(logits: tf.Tensor, min_p: tf.Tensor) -> tf.Tensor:
    """Keeps the tokens whose probability is at least min_p times that of the most probable one.

    Args:
        logits: `(batch, vocabulary)`.
        min_p: `(batch,)` in [0, 1]; 0 switches it off.

    References:
        Nguyen et al. 2024, «Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs».

    Example:

    >>> kept = keep_min_p(tf.math.log([[0.6, 0.3, 0.1]]), tf.constant([0.4]))
    >>> tf.math.is_finite(kept).numpy().tolist()
    [[True, True, False]]
    """

    def keep() -> tf.Tensor:
        # A ratio of probabilities is a difference of logits: no softmax.
        threshold = tf.reduce_max(logits, axis=-1, keepdims=True) + tf.math.log(min_p)[:, None]
        return tf.where(logits >= threshold, logits, FORBIDDEN)

    return tf.cond(tf.reduce_any(min_p > 0), keep, lambda: logits)


def keep_typical(logits: tf.Tensor, typical_p: tf.Tensor) -> tf.Tensor:
    """Keeps the tokens that say about as much as expected: the smallest set, by |-log p - H|, whose probabilities sum to typical_p or more.

    H is the entropy of the distribution. A token whose distance from it equals that of the last one in the set is kept too. The most
    probable token may go.

    Args:
        logits: `(batch, vocabulary)`.
        typical_p: `(batch,)` in (0, 1]; 1 switches it off.

    References:
        Meister et al. 2022, «Locally Typical Sampling».

    Example:

    >>> kept = keep_typical(tf.math.log([[0.5, 0.2, 0.2, 0.1]]), tf.constant([0.3]))  # H is 1.22; -log p 0.69, 1.61, 1.61, 2.3
    >>> tf.math.is_finite(kept).numpy().tolist()
    [[False, True, True, False]]
    """

    def keep() -> tf.Tensor:
        log_probabilities = tf.nn.log_softmax(logits)
        probabilities = tf.exp(log_probabilities)
        nearness = -tf.abs(log_probabilities + _entropy(probabilities, log_probabilities)[:, None])
        # In blocks, because XLA adds in sequence on a CPU what is chosen by one array and taken from another.
        near, weights = _in_blocks(nearness), _in_blocks(probabilities)

        def mass(least: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.reduce_sum(tf.where(near >= least[:, None, None], weights, 0.0), axis=1), axis=-1)

        least = _least_kept(mass, typical_p, lightest=tf.zeros_like, off=typical_p >= 1.0)
        return tf.where(nearness >= least[:, None], logits, FORBIDDEN)

    return tf.cond(tf.reduce_any(typical_p < 1.0), keep, lambda: logits)


def cut_epsilon(logits: tf.Tensor, epsilon: tf.Tensor) -> tf.Tensor:
    """Forbids the tokens whose probability is below epsilon; the most probable one stays.

    Args:
        logits: `(batch, vocabulary)`.
        epsilon: `(batch,)` in [0, 1); 0 switches it off; the paper's values lie between 3e-4 and 9e-4.

    References:
        Hewitt et al. 2022, «Truncation Sampling as Language Model Desmoothing».

    Example:

    >>> kept = cut_epsilon(tf.math.log([[0.6, 0.3, 0.1]]), tf.constant([0.2]))
    >>> tf.math.is_finite(kept).numpy().tolist()
    [[True, True, False]]
    """
    return tf.cond(tf.reduce_any(epsilon > 0), lambda: _cut(logits, tf.nn.softmax(logits), epsilon), lambda: logits)


def cut_eta(logits: tf.Tensor, eta: tf.Tensor) -> tf.Tensor:
    """Forbids the tokens whose probability is below min(eta, √eta·exp(-H)), H the entropy; the most probable one stays.

    Where the model is unsure, and its probabilities are small for that reason, less is cut than by `cut_epsilon`.

    Args:
        logits: `(batch, vocabulary)`.
        eta: `(batch,)` in [0, 1); 0 switches it off; the paper's values lie between 3e-4 and 4e-3.

    References:
        Hewitt et al. 2022, «Truncation Sampling as Language Model Desmoothing».

    Example:

    >>> kept = cut_eta(tf.math.log([[0.6, 0.3, 0.1]]), tf.constant([0.2]))  # H is 0.9 nats; the threshold 0.18
    >>> tf.math.is_finite(kept).numpy().tolist()
    [[True, True, False]]
    """

    def cut() -> tf.Tensor:
        log_probabilities = tf.nn.log_softmax(logits)
        probabilities = tf.exp(log_probabilities)
        return _cut(logits, probabilities, tf.minimum(eta, tf.sqrt(eta) * tf.exp(-_entropy(probabilities, log_probabilities))))

    return tf.cond(tf.reduce_any(eta > 0), cut, lambda: logits)


def choose(logits: tf.Tensor, uniform: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Draws from softmax(logits) by inverting the cumulative distribution; rows at temperature 0 take the largest logit.

    One random number a row is enough, so a row's text does not depend on what else is in the batch.

    Args:
        logits: `(batch, vocabulary)`.
        uniform: `(batch,)` in [0, 1).
        temperature: `(batch,)`.

    Returns:
        `(batch,)` int32.

    Example:

    >>> choose(tf.math.log([[0.5, 0.5], [0.5, 0.5]]), tf.constant([0.3, 0.8]), tf.ones([2])).numpy().tolist()
    [0, 1]
    """

    largest = tf.reduce_max(logits, axis=-1)  # out here, XLA does not compute it again for who asks whether all is forbidden
    size = logits.shape[-1]

    def draw() -> tf.Tensor:
        # In blocks, because XLA computes a running sum over n values in n² steps: √n blocks of √n values cost n. The last one is shorter:
        # XLA pads value by value.
        weights = tf.exp(logits - largest[:, None])
        block = max(1, round(size**0.5))
        blocks = -(-size // block)
        whole = size // block * block
        sums = tf.reduce_sum(tf.reshape(weights[:, :whole], [-1, size // block, block]), axis=-1)
        if whole < size:
            sums = tf.concat([sums, tf.reduce_sum(weights[:, whole:], axis=-1, keepdims=True)], axis=-1)
        upto = tf.cumsum(sums, axis=-1)  # (batch, blocks)
        target = uniform * upto[:, -1]
        which = tf.minimum(tf.reduce_sum(tf.cast(upto <= target[:, None], tf.int32), axis=-1), blocks - 1)
        rest = target - (tf.gather(upto, which, batch_dims=1) - tf.gather(sums, which, batch_dims=1))
        places = which[:, None] * block + tf.range(block)
        inside = tf.where(places < size, tf.gather(weights, tf.minimum(places, size - 1), batch_dims=1), 0.0)  # (batch, block)
        place = tf.reduce_sum(tf.cast(tf.cumsum(inside, axis=-1) <= rest[:, None], tf.int32), axis=-1)
        # Rounding may carry the target past the last token of the block, or onto one that is forbidden.
        chosen = tf.gather(inside, tf.minimum(place, block - 1), batch_dims=1)
        place = tf.where((place < block) & (chosen > 0), place, tf.argmax(inside, axis=-1, output_type=tf.int32))
        return which * block + place

    def take_largest() -> tf.Tensor:
        # The first token that reaches it: XLA searches for an argmax one token after the other.
        places = tf.where(logits >= largest[:, None], tf.range(size), size - 1)
        return tf.reduce_min(places, axis=-1)

    warm = temperature > 0
    nothing = lambda: tf.zeros_like(warm, tf.int32)
    drawn = tf.cond(tf.reduce_any(warm), draw, nothing)
    return tf.where(warm, drawn, tf.cond(tf.reduce_all(warm), nothing, take_largest))


def _entropy(probabilities: tf.Tensor, log_probabilities: tf.Tensor) -> tf.Tensor:
    """In nats, `(batch,)`; what is forbidden (0·-inf) adds nothing."""
    return -tf.reduce_sum(tf.math.multiply_no_nan(log_probabilities, probabilities), axis=-1)


def _cut(logits: tf.Tensor, probabilities: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Forbids what is less probable than the threshold, `(batch,)`, but never the most probable token."""
    threshold = tf.minimum(threshold, tf.reduce_max(probabilities, axis=-1))
    return tf.where(probabilities >= threshold[:, None], logits, FORBIDDEN)


def _in_blocks(values: tf.Tensor) -> tf.Tensor:
    """`(batch, n)` → `(batch, blocks, block)`, both about √n, zeros behind the last value."""
    size = values.shape[-1]
    block = max(1, round(size**0.5))
    blocks = -(-size // block)
    return tf.reshape(tf.pad(values, [[0, 0], [0, blocks * block - size]]), [-1, blocks, block])


def _least_kept(
    weigh: Callable[[tf.Tensor], tf.Tensor], mass: tf.Tensor, *, lightest: Callable[[tf.Tensor], tf.Tensor], off: tf.Tensor
) -> tf.Tensor:
    """The largest value, found bit by bit from the sign down, such that the tokens that reach it weigh `mass` or more together.

    The loop is rolled, because 32 passes written out take XLA five times as long to compile.

    Args:
        weigh: From the least value kept, `(batch,)`, to what the tokens kept weigh together, `(batch,)`.
        mass: `(batch,)` float32, over 0.
        lightest: From the least value kept, `(batch,)`, to what each token kept weighs at least, `(batch,)`: a row is done, before its
            last bit, once it has mass enough and would have too little without a token of that weight.
        off: `(batch,)` bool: rows that keep everything.

    Returns:
        `(batch,)` float32; -inf where everything is kept.
    """

    def unsettled(bit: tf.Tensor, place: tf.Tensor, settled: tf.Tensor) -> tf.Tensor:
        return (bit >= 0) & ~tf.reduce_all(settled)

    def halve(bit: tf.Tensor, place: tf.Tensor, settled: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Bit 31 turns the smallest number into 0: in two's complement that is an addition that wraps.
        higher = place + tf.bitwise.left_shift(1, bit)
        least = _float_at(higher)
        kept = weigh(least)
        enough = (kept >= mass) & ~settled
        return bit - 1, tf.where(enough, higher, place), settled | (enough & (kept - lightest(least) < mass))

    lowest = tf.zeros_like(mass, tf.int32) + tf.int32.min
    _, place, _ = tf.while_loop(unsettled, halve, [tf.constant(31), lowest, off])
    return _float_at(place)


def _float_at(place: tf.Tensor) -> tf.Tensor:
    """The float32 at this place, int32, in their order: the bits of a float are ordered like integers, negative ones backwards."""
    place = tf.maximum(place, -0x7F800001)  # -inf; what lies below are no numbers, and nothing compares with them
    return tf.bitcast(tf.where(place >= 0, place, tf.bitwise.bitwise_xor(place, 0x7FFFFFFF)), tf.float32)
