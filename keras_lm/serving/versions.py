"""A model and its versions, as they come and go on disk while they are served.

The newest version is served, and those that have a label. A new folder is loaded beside the old version, which answers until the new one is
ready and then finishes what runs on it. One that cannot be loaded leaves everything as it is; when its files change it is tried again.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.serving.refusing import Refused
from keras_lm.serving.settings import Limits

if TYPE_CHECKING:
    from keras_lm.serving.engine import Engine
    from keras_lm.serving.lite import LiteEngine
    from keras_lm.serving.rest import Signatures

_MOST = 2**63 - 1  # a version's number

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Version:
    """One version, loaded.

    Attributes:
        number: Its folder's name.
        created: When it was written, in seconds since 1970.
        described: What it says of itself.
        clean: What its texts are cleaned with.
        pieces: What each token writes.
        signatures: For `:predict`; a LiteRT file has none.
        engine: Draws texts; none of a model that does not go on with a prompt.
    """

    number: int
    created: int
    described: Mapping[str, Any]
    clean: Callable[[str], str]
    pieces: list[bytes]
    signatures: Signatures | None = None
    engine: Engine | LiteEngine | None = None

    def close(self, finish: bool = True, timeout: float | None = None) -> None:
        """Takes no more texts, and ends when those that run have ended."""
        if self.engine is not None:
            self.engine.close(finish, timeout)


def load_version(
    folder: pathlib.Path, number: int, limits: Limits, *, xla: bool = True, progress: Callable[[str], None] | None = None
) -> Version:
    """Loads a version of an export.

    Args:
        folder: Its own.
        number: What it is called.
        limits: For its engine.
        xla: Whether XLA compiles what draws texts: loading then takes longer.
        progress: Is told what is being done.

    Raises:
        UserError: no export of keras_lm.
    """
    import tensorflow as tf

    from keras_lm import cleaning, tokenizers
    from keras_lm.serving.engine import Engine
    from keras_lm.serving.rest import Signatures

    version, described = layout.find(folder)
    if described["needs_tensorflow_text"]:
        cleaning.tensorflow_text()
    signatures = Signatures(version, tf.saved_model.load(str(version)))
    clean, pieces, engine = cleaning.compose(described["clean"]), [], None
    if "step" in described["signatures"]:
        engine = Engine(version, max_batch=limits.max_batch, max_queue=limits.max_queue, xla=xla, progress=progress)
        pieces = tokenizers.load(version / layout.TOKENIZER).pieces()
    cleaned = lambda text: clean(tf.constant([text])).numpy()[0].decode("utf-8", "replace")
    created = int((version / "saved_model.pb").stat().st_mtime)
    return Version(number, created, described, cleaned, pieces, signatures, engine)


def load_lite(path: pathlib.Path, limits: Limits) -> Version:
    """Loads a LiteRT file.

    Raises:
        UserError: as `keras_lm.export.tflite_generator.TFLiteGenerator`.
    """
    from keras_lm.serving.lite import LiteEngine

    engine = LiteEngine(path, max_queue=limits.max_queue)
    codec = engine.generator.codec
    return Version(1, int(path.stat().st_mtime), engine.generator.metadata, codec.clean, codec.pieces(), engine=engine)


class Model:
    """A model that is served.

    Args:
        name: What clients call it.
        folder: Where its versions lie, `saved_models/NAME`; one version's own folder; or a `.tflite`. The last two are not watched.
        limits: For its engines.
        labels: Versions by label, served besides the newest.
        load: Loads a version, given its folder, its number and the limits.

    Attributes:
        versions: Those that are served, by number. Never changed in place.

    Example: `Model("quickstart", "saved_models/quickstart", Limits()).load()`
    """

    def __init__(
        self,
        name: str,
        folder: str | pathlib.Path,
        limits: Limits,
        *,
        labels: Mapping[str, int] | None = None,
        load: Callable[..., Version] = load_version,
    ):
        self.name, self.labels = name, dict(labels or {})
        self.versions: dict[int, Version] = {}
        self._folder, self._limits, self._load = pathlib.Path(folder), limits, load
        self._failed: dict[int, tuple] = {}
        self._seen: dict[int, tuple] = {}

    def load(self) -> None:
        """Loads what there is.

        Raises:
            UserError: there is no version that can be loaded, or none for a label.
        """
        if self._folder.suffix == ".tflite":
            self.versions = {1: load_lite(self._folder, self._limits)}
        elif (self._folder / "saved_model.pb").is_file():
            number = int(self._folder.resolve().name) if self._folder.resolve().name.isdecimal() else 1
            self.versions = {number: self._load(self._folder, number, self._limits)}
        else:
            self._seen = self._on_disk()
            self.poll()
            if not self.versions:
                raise UserError(f"{self._folder} holds no version that can be loaded")
        for label, number in self.labels.items():
            if number not in self.versions:
                raise UserError(f"the label {label} is to be version {number} of {self.name}, which is not there or cannot be loaded")

    def poll(self) -> bool:
        """Looks for versions that came or went, loads and closes them; not for the thread that answers requests.

        A folder that still changes is left alone until it does not.

        Returns:
            Whether others are served than before.
        """
        found = self._on_disk()
        if not found:
            return False
        served = {}
        settled = {number for number in found if found[number] == self._seen.get(number)}
        self._seen = found
        newest = iter(sorted(found, reverse=True))
        while not served and (number := next(newest, None)) is not None:
            self._serve(number, found, settled, served)
        if not served:
            return False
        for number in set(self.labels.values()) & set(found):
            self._serve(number, found, settled, served)
        gone = [version for number, version in self.versions.items() if served.get(number) is not version]
        came = len(served) > len(self.versions) - len(gone)
        self.versions = served
        for version in gone:
            version.close()
        return came or bool(gone)

    def choose(self, number: int | None = None, label: str | None = None) -> Version:
        """The version that a request asks for, the newest where it does not say.

        Raises:
            Refused: there is none.
        """
        if label is not None:
            if label not in self.labels:
                raise Refused(400, f"Unrecognized servable version label: {label}")
            number = self.labels[label]
        versions = self.versions
        if number is None and versions:
            return versions[max(versions)]
        if number not in versions:
            asked = f"Latest({self.name})" if number is None else f"Specific({self.name}, {number})"
            raise Refused(404, f"Servable not found for request: {asked}")
        return versions[number]

    def states(self) -> dict[int, str]:
        """By version what is wrong with it, or "" where it is served."""
        return {**dict.fromkeys(self._failed, "it could not be loaded: the server's log says why"), **dict.fromkeys(self.versions, "")}

    def close(self, finish: bool = True, timeout: float | None = None) -> None:
        """Ends all versions."""
        for version in self.versions.values():
            version.close(finish, timeout)

    def _serve(self, number: int, found: Mapping[int, tuple], settled: set[int], served: dict[int, Version]) -> None:
        """Adds a version to those that are served, if it is one already or can be loaded."""
        if number in served or number in self.versions:
            served[number] = served.get(number) or self.versions[number]
        elif number in settled and self._failed.get(number) != found[number]:
            try:
                served[number] = self._load(self._folder / str(number), number, self._limits)
                self._failed.pop(number, None)
                _log.info("%s: version %d is served", self.name, number)
            except Exception as error:  # whatever is wrong with its files must not touch what is served
                self._failed[number] = found[number]
                first = str(error).strip().partition("\n")[0]
                _log.warning("%s: version %d cannot be loaded and is left out: %s", self.name, number, first or type(error).__name__)

    def _on_disk(self) -> dict[int, tuple]:
        """The versions of the folder, and of each what changes when one of its files does."""
        return {number: _fingerprint(self._folder / str(number)) for number in layout.versions(self._folder) if number <= _MOST}


def settle() -> None:
    """Has the garbage collector leave alone what is there now: to be called once versions are loaded, or have gone.

    With TensorFlow in memory, looking through everything takes 0.4 s in which nobody is answered. What requests leave behind is still
    collected.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _fingerprint(folder: pathlib.Path) -> tuple:
    try:
        return tuple(sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")))
    except OSError:  # a file that went away just now
        return ()
