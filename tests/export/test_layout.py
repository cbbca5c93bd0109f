"""Where exports go, and what is left where one fails: bad input is one line, and a version appears whole or not at all."""

import errno
import pathlib
import shutil

import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.export import layout, saved_model
from keras_lm.export.saved_model import export_model, export_run
from keras_lm.tokenizers import ByteTokenizer
from keras_lm.training.run import Run


def foreign(folder):
    """A model that another tool wrote."""
    tf.saved_model.save(tf.Module(), str(folder))
    return folder


def test_folders_that_are_no_exports(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        layout.find(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no exported model"):
        layout.find(tmp_path)
    foreign(tmp_path / "other" / "1")
    with pytest.raises(UserError, match="is a SavedModel, but not one of keras_lm"):
        layout.find(tmp_path / "other")


def test_targets_that_would_mix_or_overwrite_are_refused(small_run, tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match=r"file is a file: choose another folder"):
        layout.check_target(tmp_path / "file")
    with pytest.raises(UserError, match=r"2 is one version of an export: give the folder that holds the versions, .*model$"):
        layout.check_target(foreign(tmp_path / "model" / "2"))
    with pytest.raises(UserError, match=r"2 is no export of keras_lm: choose another folder"):
        layout.check_target(tmp_path / "model")
    with pytest.raises(UserError, match=r"holds no export but other things \(checkpoints\)"):
        layout.check_target(small_run.folder)


def test_targets_that_are_good(tmp_path):
    layout.check_target(tmp_path / "new")
    layout.check_target(tmp_path)
    (tmp_path / "model.tflite").touch()
    (tmp_path / "vocabulary.json").touch()
    (tmp_path / ".1-left").mkdir()  # of an export that was killed
    layout.check_target(tmp_path)


def half_written(run, folder):
    shutil.copytree(run.folder, folder)
    return Run.open(folder)


def test_a_run_that_is_not_whole_is_refused(small_run, tmp_path):
    run = half_written(small_run, tmp_path / "run")
    model = run.folder / "model.keras"
    model.write_bytes(model.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"model\.keras is not whole"):
        export_run(run, tmp_path / "out")
    model.unlink()
    with pytest.raises(UserError, match=r"has no model\.keras yet: let it train up to its first evaluation"):
        export_run(run, tmp_path / "out")
    run = half_written(small_run, tmp_path / "second")
    (run.folder / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer/tokenizer\.json"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["save", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("write_requests", "flush"))])
def test_an_export_that_fails_leaves_nothing(stage, tmp_path, monkeypatch):
    """Wherever the disk fills, the version before is the newest, and nothing half lies about."""
    seen = []

    def full(*arguments, **_):
        seen.append(sorted(path.name for path in (tmp_path / "model").iterdir()))
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {"save": tf.saved_model, "write_requests": saved_model, "flush": layout}[stage]
    monkeypatch.setattr(owner, stage, full)
    (tmp_path / "model").mkdir()
    with pytest.raises(OSError, match="No space left"):
        export_model(models.gru_lm(260, embedding_dim=4, hidden_dim=4), ByteTokenizer(), tmp_path / "model")
    assert len(seen[0]) == 1 and seen[0][0].startswith(".")  # what was being written, under a name that no server takes for a version
    assert list((tmp_path / "model").iterdir()) == []


def test_flush_reaches_every_file(tmp_path, monkeypatch):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_text("text")
    flushed = []
    monkeypatch.setattr("os.fsync", lambda handle: flushed.append(pathlib.Path(f"/proc/self/fd/{handle}").readlink().name))
    layout.flush(tmp_path)
    assert sorted(flushed) == ["deep", "er", "file"]
