"""What `TF_CONFIG` says, checked before TensorFlow is started: it would wait for an hour for a worker that was misspelt.

The form is TensorFlow's own (https://www.tensorflow.org/guide/distributed_training#setting_up_the_tf_config_environment_variable):

    {"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from keras_lm.errors import UserError

_EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The workers of one training run, and which of them this process is.

    Args:
        workers: Addresses `host:port`; a `chief`, where the configuration has one, comes first.
        index: The place of this process among them.

    Example:

    >>> cluster = Cluster.parse('{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}')
    >>> cluster.index, cluster.is_chief, cluster.name(0)
    (1, False, 'worker 0 (a:1)')
    """

    workers: tuple[str, ...]
    index: int

    @classmethod
    def from_environment(cls) -> Cluster:
        """The cluster that the variable `TF_CONFIG` describes.

        Raises:
            UserError: there is none, or it is malformed.
        """
        text = os.environ.get("TF_CONFIG", "")
        if not text.strip():
            raise UserError(f"--strategy multiworker needs the variable TF_CONFIG on every worker, e.g. TF_CONFIG='{_EXAMPLE}'")
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str) -> Cluster:
        """From the text of `TF_CONFIG`.

        Raises:
            UserError: what of it is wrong.
        """
        try:
            config = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"TF_CONFIG is not JSON ({error}); it should look like {_EXAMPLE}") from None
        cluster = config.get("cluster") if isinstance(config, dict) else None
        task = config.get("task") if isinstance(config, dict) else None
        if not isinstance(cluster, dict) or not isinstance(task, dict):
            raise UserError(f"TF_CONFIG must hold 'cluster' and 'task'; it should look like {_EXAMPLE}")
        for kind in cluster:
            if kind not in ("chief", "worker"):
                raise UserError(f"TF_CONFIG: the cluster may hold 'chief' and 'worker', not {kind!r} (parameter servers are not used)")
        chiefs, workers = cls._addresses(cluster, "chief"), cls._addresses(cluster, "worker")
        if len(chiefs) > 1:
            raise UserError(f"TF_CONFIG: there can be one chief, not {len(chiefs)}")
        kind, index = task.get("type"), task.get("index")
        if kind not in cluster:
            raise UserError(f"TF_CONFIG: the task's type must be one of {', '.join(cluster) or 'worker'}, got {kind!r}")
        own = chiefs if kind == "chief" else workers
        if isinstance(index, str) and index.isdecimal():  # as schedulers that fill in templates write it
            index = int(index)
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(own):
            raise UserError(f"TF_CONFIG: the task's index must be from 0 to {len(own) - 1} for {kind}, got {index!r}")
        everyone = chiefs + workers
        for address in everyone:
            if everyone.count(address) > 1:
                raise UserError(f"TF_CONFIG: {address} is named twice")
        return cls(everyone, index + (len(chiefs) if kind == "worker" else 0))

    @staticmethod
    def _addresses(cluster: dict, kind: str) -> tuple[str, ...]:
        addresses = cluster.get(kind, [])
        if not isinstance(addresses, list) or (kind in cluster and not addresses):
            raise UserError(f"TF_CONFIG: {kind!r} must be a list of addresses, got {addresses!r}")
        for address in addresses:
            host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise UserError(f"TF_CONFIG: {address!r} is no address of the form host:port")
        return tuple(addresses)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run folder."""
        return self.index == 0

    def name(self, index: int) -> str:
        """What messages call a worker."""
        return f"worker {index} ({self.workers[index]})"

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Ends the process with one line if the workers have not all come within `seconds` of entering; the body waits for them.

        TensorFlow waits inside a call that nothing can interrupt, so a thread looks on and ends the process in its stead.
        """
        arrived = threading.Event()

        def watch() -> None:
            begin = time.monotonic()
            said: list[int] = []
            while not arrived.wait(1.0):
                missing = [index for index in range(len(self.workers)) if index != self.index and not self._answers(index)]
                waited = time.monotonic() - begin
                if waited > seconds:
                    names = ", ".join(map(self.name, missing)) or "another worker, although all answer"
                    print(
                        f"keras_lm-train: waited {seconds:.0f} s in vain for {names}: "
                        "start it, or correct TF_CONFIG, or raise --worker-timeout",
                        file=sys.stderr,
                        flush=True,
                    )
                    os._exit(2)
                if missing != said and waited > 3:
                    said = missing
                    if missing:
                        print("waiting for " + ", ".join(map(self.name, missing)) + " ...", file=sys.stderr, flush=True)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            arrived.set()

    def _answers(self, index: int) -> bool:
        host, _, port = self.workers[index].rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
        return False
