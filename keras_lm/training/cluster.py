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
import time

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

    def meet(self, seconds: float) -> None:
        """Waits until all workers have been started. The first one gathers them at its address, which TensorFlow takes afterwards.

        TensorFlow would wait as well, but inside a call that neither a time limit nor Ctrl-C can end.

        Args:
            seconds: How long to wait.

        Raises:
            UserError: somebody did not come in time, or this worker's address is taken.
        """
        end = time.monotonic() + seconds
        missing = self._gather(end) if self.is_chief else self._report(end)
        if missing:
            names = ", ".join(map(self.name, missing))
            raise UserError(f"waited {seconds:.0f} s in vain for {names}: start it, or correct TF_CONFIG, or raise --worker-timeout")

    def _gather(self, end: float) -> list[int]:
        port = int(self.workers[0].rpartition(":")[2])
        try:
            server = socket.create_server(("", port))
        except OSError as error:
            raise UserError(f"the address {self.workers[0]} of this worker cannot be used: {error.strerror}") from None
        came: dict[int, socket.socket] = {}
        missing, said = list(range(1, len(self.workers))), time.monotonic() + 3
        with server:
            server.settimeout(0.5)
            while missing and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    connection, _ = server.accept()
                    connection.settimeout(1.0)
                    word, _, index = connection.recv(64).decode("ascii", "replace").partition(" ")
                    if word == _HELLO and index.strip().isdecimal() and 0 < int(index) < len(self.workers):
                        came[int(index)] = connection
                came = {index: connection for index, connection in came.items() if _is_open(connection)}
                missing = [index for index in range(1, len(self.workers)) if index not in came]
                if missing and time.monotonic() > said:
                    said = time.monotonic() + 30
                    print("waiting for " + ", ".join(map(self.name, missing)) + " ...", file=sys.stderr, flush=True)
            for connection in came.values():
                with contextlib.suppress(OSError), connection:
                    connection.sendall(b"late\n" if missing else b"go\n")
        return missing

    def _report(self, end: float) -> list[int]:
        host, _, port = self.workers[0].rpartition(":")
        said = time.monotonic() + 3
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=1.0) as connection:
                connection.sendall(f"{_HELLO} {self.index}\n".encode())
                connection.settimeout(max(end + 5 - time.monotonic(), 1.0))
                if connection.recv(16) == b"go\n":
                    return []
            if time.monotonic() > said:
                said = time.monotonic() + 30
                print(f"waiting for {self.name(0)} ...", file=sys.stderr, flush=True)
            time.sleep(0.2)
        return [0]


_HELLO = "keras_lm-worker"


def _is_open(connection: socket.socket) -> bool:
    """Whether the other side, which sends nothing more, is still there."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
