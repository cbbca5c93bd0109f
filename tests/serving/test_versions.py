"""Versions that come, go and fail while others are served."""

import gc
import shutil
import threading
import time
import weakref

import httpx
import pytest

from keras_lm.errors import UserError
from keras_lm.serving.refusing import Refused
from keras_lm.serving.settings import Limits
from keras_lm.serving.versions import Model, Version, settle
from tests.serving.conftest import load_quickly, serving, wait_for


class Engine:
    running = waiting = 0

    def __init__(self):
        self.closed = []

    def close(self, finish=True, timeout=None):
        self.closed.append(finish)


@pytest.fixture
def folder(tmp_path):
    """`NAME` with versions 1 and 2, which `load` takes for whole where they hold no file `bad`."""
    for number in (1, 2):
        add(tmp_path / "model", number)
    return tmp_path / "model"


def add(folder, number, bad=False):
    (folder / str(number)).mkdir(parents=True, exist_ok=True)
    (folder / str(number) / "saved_model.pb").touch()
    if bad:
        (folder / str(number) / "bad").touch()


def load(folder, number, limits):
    if (folder / "bad").exists():
        raise ValueError("damaged\nand more")
    return Version(number, 0, {}, str, [], engine=Engine())


def opened(folder, **options):
    model = Model("model", folder, Limits(), load=load, **options)
    model.load()
    return model


def poll(model):
    """Twice: a folder that has just changed is left alone the first time."""
    model.poll()
    model.poll()


def test_the_newest_is_served_and_a_newer_one_takes_its_place(folder):
    model = opened(folder)
    assert list(model.versions) == [2]
    old = model.choose()
    assert not model.poll()
    add(folder, 3)
    assert not model.poll()
    assert model.choose() is old
    assert model.poll()
    assert model.choose().number == 3
    assert old.engine.closed == [True]
    assert not model.poll()
    assert model.choose().engine.closed == []


def test_a_label_keeps_the_old_one_beside_one_that_came(folder):
    model = opened(folder, labels={"stable": 1})
    add(folder, 3)
    assert (model.poll(), model.poll(), model.poll()) == (False, True, False)
    assert sorted(model.versions) == [1, 3]


def test_what_is_loaded_is_left_alone_by_the_collector_and_what_comes_later_is_not():
    class Ring:
        pass

    def gone():
        ring = Ring()
        ring.itself = ring
        return weakref.ref(ring)

    before = gone()
    try:
        settle()
        assert before() is None
        assert gc.get_freeze_count() > 100_000
        after = gone()
        gc.collect()
        assert after() is None
    finally:
        gc.unfreeze()


def test_a_bad_one_leaves_the_old_one_and_is_logged_once(folder, caplog):
    model = opened(folder)
    old = model.choose()
    add(folder, 3, bad=True)
    for _ in range(5):
        model.poll()
    assert model.choose() is old and not old.engine.closed
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["model: version 3 cannot be loaded and is left out: damaged"]
    assert model.states() == {2: "", 3: "it could not be loaded: the server's log says why"}
    (folder / "3" / "bad").unlink()
    poll(model)
    assert model.choose().number == 3
    assert model.states() == {3: ""}


def test_taking_the_newest_away_goes_back(folder):
    model = opened(folder)
    shutil.rmtree(folder / "2")
    poll(model)
    assert model.choose().number == 1


def test_what_is_served_stays_where_all_is_taken_away(folder):
    model = opened(folder)
    shutil.rmtree(folder)
    poll(model)
    assert model.choose().number == 2


def test_labels(folder):
    model = opened(folder, labels={"stable": 1, "canary": 2})
    assert sorted(model.versions) == [1, 2]
    assert model.choose(label="stable").number == 1
    add(folder, 3)
    poll(model)
    assert sorted(model.versions) == [1, 2, 3]
    with pytest.raises(Refused, match="Unrecognized servable version label: old"):
        model.choose(label="old")
    with pytest.raises(UserError, match="the label stable is to be version 9"):
        opened(folder, labels={"stable": 9})


def test_a_version_alone_is_served_as_it_is(folder):
    model = opened(folder / "1")
    assert model.choose().number == 1
    poll(model)
    assert list(model.versions) == [1]


def test_nothing_that_can_be_loaded(tmp_path):
    add(tmp_path / "model", 1, bad=True)
    with pytest.raises(UserError, match="holds no version that can be loaded"):
        opened(tmp_path / "model")


def test_a_server_picks_up_a_new_export_while_texts_are_written(exported, tmp_path):
    """What runs on the old version ends there; what comes then meets the new one."""
    folder = tmp_path / "tiny"
    shutil.copytree(exported, folder)
    model = Model("tiny", folder, Limits(), load=load_quickly)
    model.load()
    with serving([model], poll_seconds=0.1) as address, httpx.Client(base_url=address, timeout=120) as client:
        asked = {"model": "tiny", "prompt": "中国", "max_tokens": 40, "min_tokens": 40, "seed": 1}
        expected = client.post("/v1/completions", json=asked).json()["choices"]
        answers, going = [], threading.Event()

        def ask():
            with httpx.Client(base_url=address, timeout=120) as own:
                while not going.is_set():
                    answers.append(own.post("/v1/completions", json=asked))
                    time.sleep(0.05)

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        shutil.copytree(folder / "1", folder / ".copying")
        (folder / ".copying").rename(folder / "2")
        state = lambda: client.get("/v1/models/tiny").json()["model_version_status"]
        wait_for(lambda: [each["version"] for each in state()] == ["2"], 120)
        (folder / "3").mkdir()
        wait_for(lambda: [each["state"] for each in state()] == ["END", "AVAILABLE"], 120)
        going.set()
        for asker in askers:
            asker.join()
        assert {answer.status_code for answer in answers} == {200}
        assert all(answer.json()["choices"] == expected for answer in answers)
        assert client.post("/v1/models/tiny/versions/2:predict", json={"instances": ["a"]}).status_code == 200
        assert client.post("/v1/models/tiny/versions/1:predict", json={"instances": ["a"]}).status_code == 404
