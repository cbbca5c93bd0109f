"""Training batches read by tf.data service: many processes, on this machine or others, that see the same shards.

`pipeline.training_batches` reads in this process, in Python, which is quicker than a training step takes by far; a service is for
readers that cannot keep up, on a slow network file system say. What is sent to its workers may hold no Python, so a window is read by
TensorFlow alone here, at an eighth of the speed. The order stays exact: the workers take the steps in turn (static sharding), the
consumer asks each of them once a round (coordinated reads), and the batches of a round are put in the order of their steps. This needs a
dispatcher that was told the addresses of its workers when it started.

Reference: https://www.tensorflow.org/api_docs/python/tf/data/experimental/service
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_lm.pipeline import window_starts
from keras_lm.shards import ShardedIds, file_size


def served_batches(
    ids: ShardedIds,
    *,
    service: str,
    num_workers: int,
    sequence_length: int,
    batch_size: int,
    seed: int = 0,
    start_step: int = 0,
    stateful: bool = False,
    rows: tuple[int, int] | None = None,
) -> tf.data.Dataset:
    """The dataset of `pipeline.training_batches`, made by the workers of a tf.data service.

    Args:
        ids: On disk, where the workers find them under the same path.
        service: Address of the dispatcher, `grpc://HOST:PORT`. It must have been started with the `worker_addresses` of all its workers.
        num_workers: How many these are. Batches that would come in another order than theirs are an error.
        sequence_length, batch_size, seed, start_step, stateful, rows: As `training_batches` takes them; each consumer of some `rows` calls
            this for itself.

    Returns:
        A dataset of `(inputs, targets)`, each `(rows, sequence_length)` int32, the same as without a service.

    Raises:
        UserError: a text that is too short.

    Example: `served_batches(run.load_tokens()["train"].ids, service="grpc://10.0.0.1:5000", num_workers=4, ...)`
    """
    starts, span = window_starts(len(ids), sequence_length, batch_size, seed, stateful, rows), sequence_length + 1
    height = batch_size if rows is None else rows[1] - rows[0]
    window = window_reader(ids, span)

    def windows_at(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return step, tf.ensure_shape(tf.map_fn(window, starts(step), fn_output_signature=tf.int32), [height, span])

    def in_order(number: tf.Tensor, round_: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        steps, windows = round_
        order = tf.argsort(steps)
        expected = start_step + number * num_workers + tf.range(num_workers, dtype=tf.int64)
        with tf.control_dependencies(
            [tf.debugging.assert_equal(tf.gather(steps, order), expected, "num_workers is not that of the service")]
        ):
            return tf.gather(windows, order)

    tf_service = tf.data.experimental.service
    hint = tf.data.experimental.SHARD_HINT  # each worker puts the number of workers and its own here
    turns = tf_service.distribute(
        processing_mode=tf_service.ShardingPolicy.HINT,
        service=service,
        job_name=uuid.uuid4().hex,  # a name that was used before would go on where that job is
        consumer_index=0,
        num_consumers=1,
    )
    served = tf.data.Dataset.counter(start_step).shard(hint, hint).map(windows_at).apply(turns)
    windows = served.batch(num_workers, drop_remainder=True).enumerate().map(in_order).unbatch()
    return windows.map(lambda window: (window[:, :-1], window[:, 1:])).prefetch(4)


def window_reader(ids: ShardedIds, span: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Scalar int64 start → the `span` ids from there, `(span,)` int32, in TensorFlow's ops alone."""
    record_tokens, dtype = ids.record_tokens, tf.as_dtype(ids.dtype)
    frame = file_size(record_tokens, ids.dtype, record_tokens)
    begins, paths = tf.constant(ids.starts[:-1], tf.int64), tf.constant(ids.paths)
    records = -(-np.diff(ids.starts) // record_tokens)
    records_before = tf.constant(np.cumsum([0, *records[:-1]]), tf.int64)

    def place(token: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shard = tf.searchsorted(begins, [token], side="right")[0] - 1
        return shard, (token - begins[shard]) // record_tokens

    def window(start: tf.Tensor) -> tf.Tensor:
        (first, record), (last, last_record) = place(start), place(start + span - 1)
        offsets = tf.concat([[record * frame], tf.zeros([last - first], tf.int64)], axis=0)  # of where reading begins in each shard
        files = {"filenames": paths[first : last + 1], "compression_type": "", "buffer_size": tf.constant(0, tf.int64)}
        variant = tf.raw_ops.TFRecordDatasetV2(**files, byte_offsets=offsets)
        count = records_before[last] + last_record - records_before[first] - record + 1
        dataset = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
        data = tf.strings.reduce_join(dataset.take(count).batch(count).get_single_element())
        skipped = start - begins[first] - record * record_tokens
        return tf.ensure_shape(tf.cast(tf.io.decode_raw(data, dtype)[skipped : skipped + span], tf.int32), [span])

    return window
