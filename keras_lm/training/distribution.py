"""TensorFlow's engine for more than one device, as the training loop uses it.

A batch is cut by rows: replica r of R takes rows r·B/R ... (r+1)·B/R of the same batch that one device would take whole. Gradients are
summed over all replicas, then clipped, then applied, so the weights are those of one device but for the order in which sums are rounded.
Dropout draws anew for each replica.

What is not offered, and why: Keras' `fit` fails under `MultiWorkerMirroredStrategy` (keras#20585); `ParameterServerStrategy` updates
without waiting, so that no run could be repeated; `keras.distribution` does nothing on the TensorFlow backend, silently.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.training.cluster import Cluster


class Distribution:
    """The devices of a run.

    Args:
        kind: `none` (one device), `mirrored` (all devices of this machine), `multiworker` (those of all machines that `TF_CONFIG` names)
            or `tpu`.
        worker_timeout: Seconds to wait for the other workers.

    Raises:
        UserError: devices or workers that are not there, or a second strategy in one process.

    Example:

    >>> alone = Distribution("none")
    >>> alone.num_replicas, alone.is_chief
    (1, True)
    """

    def __init__(self, kind: str = "none", worker_timeout: float = 300.0):
        if keras.distribution.distribution() is not None:
            raise UserError("keras.distribution does nothing on TensorFlow: unset it, and use --strategy mirrored or multiworker")
        self.kind = kind
        self.cluster: Cluster | None = None
        if kind == "mirrored":
            # Without a GPU: the logical devices into which a CPU may be cut, for tests.
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            self.strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
        elif kind == "multiworker":
            self.cluster = Cluster.from_environment()
            self.cluster.meet(worker_timeout)
            try:
                self.strategy = tf.distribute.MultiWorkerMirroredStrategy()
            except tf.errors.OpError as error:
                raise UserError(f"the workers could not be joined: {_first_line(error)}") from None
            except RuntimeError as error:
                raise UserError(f"a process can be part of one cluster only, and before it uses TensorFlow: {error}") from None
        elif kind == "tpu":
            try:
                resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
            except (ValueError, tf.errors.OpError) as error:
                raise UserError(f"no TPU was found: {_first_line(error)}") from None
            self.strategy = tf.distribute.TPUStrategy(resolver)
        else:
            self.strategy = tf.distribute.get_strategy()

    @property
    def is_distributed(self) -> bool:
        """Whether there is a strategy at all: one replica alone may be under one."""
        return self.kind != "none"

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.cluster is None or self.cluster.is_chief

    @property
    def num_replicas(self) -> int:
        """Devices that share a batch."""
        return self.strategy.num_replicas_in_sync

    @property
    def num_workers(self) -> int:
        """Processes."""
        return len(self.cluster.workers) if self.cluster else 1

    @property
    def worker(self) -> int:
        """The number of this process."""
        return self.cluster.index if self.cluster else 0

    def rows(self, batch_size: int) -> tuple[int, int]:
        """The rows `begin, end` of a batch that this process reads for its replicas.

        Raises:
            UserError: a batch that cannot be cut evenly.
        """
        if batch_size % self.num_replicas:
            raise UserError(f"batch_size must be a multiple of the number of replicas ({self.num_replicas}), got {batch_size}")
        share = batch_size // self.num_workers
        return self.worker * share, (self.worker + 1) * share

    def spread(self, tensors: Any) -> Any:
        """Cuts the rows of this process among its replicas: each tensor `(rows, ...)` → as many values `(rows / replicas, ...)`."""
        return tf.nest.map_structure(self._spread, tensors) if self.is_distributed else tensors

    def _spread(self, tensor: tf.Tensor) -> Any:
        local = self.num_replicas // self.num_workers
        parts = tf.split(tensor, local)
        first = self.worker * local
        return self.strategy.experimental_distribute_values_from_function(lambda context: parts[context.replica_id_in_sync_group - first])

    def sum_over_workers(self, values: list[float]) -> list[float]:
        """The sums of some numbers over all processes; every process must call it, and has the same result to the last bit."""
        if self.num_workers == 1:
            return values
        local = self.num_replicas // self.num_workers

        def own(context: tf.distribute.ReplicaContext) -> tf.Tensor:
            counts = context.replica_id_in_sync_group % local == 0
            return tf.constant(values if counts else [0.0] * len(values), tf.float64)

        each = self.strategy.experimental_distribute_values_from_function(own)
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None).numpy().tolist()


def guarded(call: Callable[[], Any], where: Callable[[], str]) -> Any:
    """Calls, and turns what devices and other workers do wrong into one line.

    Args:
        call: To be called.
        where: Says at which step the run is.

    Raises:
        UserError: a worker was lost, or memory ran out.
    """
    try:
        return call()
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.DeadlineExceededError) as error:
        raise UserError(f"another worker was lost {where()} ({_first_line(error)}): start all of them again with --resume") from None
    except (tf.errors.ResourceExhaustedError, MemoryError) as error:
        raise UserError(
            f"out of memory {where()} ({_first_line(error)}): lower --batch-size or --sequence-length, "
            "or cut the batch in parts with --accumulate; --dry-run estimates what a run takes"
        ) from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:200]
