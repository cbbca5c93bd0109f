import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_lm import corpora, pipeline, shards, tokenizers
from keras_lm.errors import UserError
from keras_lm.preparation import prepare as preparation
from keras_lm.preparation.prepare import prepare
from keras_lm.preparation.settings import PreparationSettings
from keras_lm.preparation.workers import Work, Workers


def settings_of(*corpus, **values):
    """Small shards, so that there are many sections; in this process, unless `workers` says otherwise."""
    values = {"tokenizer": "byte", "workers": 1, "shard_tokens": 8192, "out": "data", **values}
    return PreparationSettings(corpus=tuple(map(str, corpus)), **values)


def contents(folder):
    """Every file below a folder, byte for byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()}


@pytest.fixture
def text(tmp_path):
    """A file of Chinese and English lines and paragraphs, about 60 kB."""
    rng = random.Random(0)
    words = ["one", "two", "three", "春眠不觉晓", "处处闻啼鸟", "😀", "", "ＡＢＣ"]
    lines = [" ".join(rng.choices(words, k=rng.randint(0, 12))) for _ in range(1500)]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "split", "document", "clean"),
    [
        ("char", "hash", "line", ()),
        ("char", "contiguous", "paragraph", ("whitespace",)),
        ("byte", "hash", "paragraph", ("nfkc", "whitespace")),
        ("byte", "contiguous", "line", ()),
        ("byte", "contiguous", "file", ()),
        ("wordpiece", "hash", "line", ("lower",)),
        ("wordpiece", "contiguous", "line", ()),
        ("sentencepiece", "hash", "paragraph", ()),
        ("sentencepiece", "contiguous", "line", ("whitespace",)),
        ("word", "hash", "line", ()),
    ],
)
def test_sections_give_the_tokens_of_a_single_pass(tmp_path, text, kind, split, document, clean):
    sizes = {"vocabulary_size": {"wordpiece": 100, "sentencepiece": 290, "word": 400}.get(kind)}
    corpus = corpora.open_corpus(str(text), document=document)
    pairs = lambda: pipeline.split_texts(corpus, split, clean)
    tokenizer = tokenizers.get(kind).fit((text for name, text in pairs() if name == "train"), sizes["vocabulary_size"])
    expected = pipeline.encode(pairs(), tokenizer, tmp_path / "expected", documents=split != "contiguous")
    settings = settings_of(text, tokenizer=kind, split=split, document=document, clean=clean, **sizes)
    made = prepare(settings)
    sections = {shard["section"] for entry in made.manifest["splits"].values() for shard in entry["shards"]}
    assert document == "file" or len(sections) > 5
    shards.check_tokenizer("data", tokenizer)
    shards.verify("data")
    tokens = pipeline.load_tokens("data")
    for name in pipeline.SPLITS:
        assert np.array_equal(tokens[name].ids, expected[name].ids)
        for count in ("characters", "bytes", "documents", "unknown"):
            assert getattr(tokens[name], count) == getattr(expected[name], count)
    assert made.bytes == sum(part.bytes for part in expected.values())
    assert {path.name for path in pathlib.Path("data").iterdir() if path.suffix != ".tfrecord"} == {
        "manifest.json",
        "preparation.json",
        "tokenizer",
    }


def test_many_corpora_are_one(tmp_path, text):
    (tmp_path / "more.txt").write_text("一行\n" * 5, encoding="utf-8")
    prepare(settings_of(text, "pydoc", tmp_path / "more.txt", shard_tokens=1 << 16))
    texts = [text for name in (text, "pydoc", tmp_path / "more.txt") for text in corpora.open_corpus(str(name)).documents()]
    pairs = pipeline.split_texts(corpora.Corpus(name="all", documents=lambda: iter(texts)), "hash")
    expected = pipeline.encode(pairs, tokenizers.ByteTokenizer(), tmp_path / "expected")
    tokens = pipeline.load_tokens("data")
    assert all(np.array_equal(tokens[name].ids, expected[name].ids) for name in pipeline.SPLITS)


def test_sub_words_are_learnt_from_a_sample_of_all_of_the_corpus(tmp_path, monkeypatch):
    (tmp_path / "large.txt").write_text("".join(f"{number:07d} word\n" for number in range(200_000)))
    learnt = []
    monkeypatch.setattr(
        tokenizers.WordPieceTokenizer, "fit", classmethod(lambda cls, texts, size: learnt.extend(texts) or tokenizers.ByteTokenizer())
    )
    prepare(settings_of(tmp_path / "large.txt", tokenizer="wordpiece", vocabulary_sample=1, shard_tokens=1 << 17))
    numbers = [int(text.split()[0]) for text in learnt]
    assert 900_000 < sum(map(len, learnt)) < 1_100_000
    assert numbers == sorted(numbers)
    assert {number // 20_000 for number in numbers} == set(range(10))
    assert all(pipeline.split_of(text.encode()) == "train" for text in learnt)


def test_processes_change_nothing(text):
    prepare(settings_of(text, tokenizer="char", split="contiguous", out="alone"))
    told = []
    made = prepare(
        settings_of(text, tokenizer="char", split="contiguous", out="together", workers=2), report=lambda *state: told.append(state)
    )
    assert made.processes == 2
    assert contents("alone") == contents("together")
    assert {what for what, *_ in told} == {"measuring", "counting characters", "tokenizing"}
    assert told[-1][1] == told[-1][2] == text.stat().st_size


def test_a_ready_tokenizer_is_taken_as_it_is(text, small_run):
    prepare(settings_of(text, tokenizer=None, tokenizer_from=str(small_run.folder)))
    shards.check_tokenizer("data", small_run.folder / "tokenizer")
    assert contents("data/tokenizer") == contents(small_run.folder / "tokenizer")


def test_interrupted_work_goes_on_and_ends_the_same(text, monkeypatch):
    settings = settings_of(text, tokenizer="char", split="contiguous")
    prepare(settings_of(text, tokenizer="char", split="contiguous", out="whole"))
    encode, done = Work.encode, []

    def interrupted(self, number, place, progress):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(number)
        return encode(self, number, place, progress)

    monkeypatch.setattr(Work, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings)
    with pytest.raises(UserError, match="holds no tokenized corpus"):
        pipeline.load_tokens("data")
    with pytest.raises(UserError, match="not finished: go on with it by --resume"):
        prepare(settings)
    finished = list(done)
    done[:] = []
    monkeypatch.setattr(Work, "encode", lambda self, number, *rest: done.append(number) or encode(self, number, *rest))
    prepare(preparation.stored_settings("data"), resume=True)
    assert len(finished) == 3
    assert not set(finished) & set(done)
    assert contents("data") == contents("whole")
    assert prepare(preparation.stored_settings("data"), resume=True).bytes == 0
    with pytest.raises(UserError, match="already holds a tokenized corpus"):
        prepare(settings)


def test_interrupted_at_the_very_end(text, monkeypatch):
    """When some shards have their names already, and when the manifest is there but the parts are not yet gone."""
    prepare(settings_of(text, out="whole"))
    replace, calls = os.replace, []

    def failing(source, target):
        if ".tfrecord" in str(target):
            calls.append(target)
            if len(calls) == 5:
                raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", failing)
        prepare(settings_of(text))
    assert len(list(pathlib.Path("data").glob("*.tfrecord"))) == 4
    prepare(preparation.stored_settings("data"), resume=True)
    assert contents("data") == contents("whole")


@pytest.mark.parametrize("how", ["altered", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "missing"))])
def test_damaged_shards_are_made_again(text, how):
    prepare(settings_of(text))
    before = contents("data")
    for name in ("train-00001-of-", "test-00000-of-"):
        (path,) = pathlib.Path("data").glob(f"{name}*")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.unlink() if how == "missing" else path.write_bytes(data[:-3] if how == "cut" else data)
    with pytest.raises(UserError, match="keras_lm-prepare --out data --resume makes it again"):
        shards.verify("data")
    assert prepare(preparation.stored_settings("data"), resume=True).bytes > 0
    assert contents("data") == before


def test_a_corpus_that_changed_is_not_gone_on_with(text):
    prepare(settings_of(text))
    with text.open("a") as file:
        file.write("more")
    with pytest.raises(UserError, match=r"text\.txt has changed since data was begun"):
        prepare(preparation.stored_settings("data"), resume=True)
    text.unlink()
    with pytest.raises(UserError, match=r"text\.txt, a file of the corpus, is not there any more"):
        prepare(preparation.stored_settings("data"), resume=True)


def test_only_what_does_not_matter_may_change(text):
    prepare(settings_of(text))
    assert preparation.stored_settings("data", workers=7, corpus=(str(text),)).workers == 7
    with pytest.raises(UserError, match="tokenizer is 'char' here but 'byte' in data"):
        preparation.stored_settings("data", tokenizer="char")
    with pytest.raises(UserError, match="nosuch holds no preparation to go on with"):
        preparation.stored_settings("nosuch")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_bad_text_is_named_and_can_be_gone_on_with(tmp_path, workers):
    (tmp_path / "bad.txt").write_bytes(b"good line\n" * 1500 + b"bad \xff line\n")
    settings = settings_of(tmp_path / "bad.txt", workers=workers)
    with pytest.raises(UserError, match=r"bad\.txt is not UTF-8: byte 0xff at offset 15004; .* --errors replace"):
        prepare(settings)
    if pathlib.Path("data").exists():  # something was finished
        made = prepare(preparation.stored_settings("data", errors="replace"), resume=True)
        assert sum(split["documents"] for split in made.manifest["splits"].values()) == 1501


@pytest.mark.parametrize("content", [b"", b"\n\n \n"])
def test_a_corpus_without_text_is_refused_and_leaves_nothing(tmp_path, content):
    (tmp_path / "empty.txt").write_bytes(content)
    with pytest.raises(UserError, match="has no text"):
        prepare(settings_of(tmp_path / "empty.txt"))
    assert not pathlib.Path("data").exists()


def test_folders_in_use_are_refused(tmp_path, text):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out, message in (("full", "full is not empty"), ("full/file", "is a file")):
        with pytest.raises(UserError, match=message):
            prepare(settings_of(text, out=out))
    (tmp_path / "data").mkdir()
    with preparation._alone(tmp_path / "data"), pytest.raises(UserError, match="another keras_lm-prepare is at work in data"):
        prepare(settings_of(text))


def test_a_worker_that_is_killed_is_reported(text):
    settings = settings_of(text, workers=2)
    work = Work(settings, preparation.cutting.cut(settings), pathlib.Path("data"))
    with Workers(work, 2) as workers:
        workers._workers[0][0].kill()
        with pytest.raises(UserError, match=r"a worker process ended \(killed by signal 9\): --resume goes on"):
            list(workers.run("measure", dict.fromkeys(range(len(work.sections))), lambda *_: None))


def run_until_killed(arguments, seconds, out=None, shards=0):
    """Starts `keras_lm-prepare` and kills it, it alone, that long after it wrote so many shards. Returns whether it had ended by itself."""
    command = [sys.executable, "-m", "keras_lm.cli.prepare", *map(str, arguments)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from keras_lm.cli.prepare import main; main()", *command[3:]], stderr=subprocess.PIPE
    )
    written = lambda: sum(".tfrecord" in name for _, _, names in os.walk(out or "") for name in names)  # folders come and go meanwhile
    wanted = written() + shards
    while shards and process.poll() is None and written() < wanted:
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == 0


def workers_alive(folder):
    """Processes whose working directory is `folder`, besides this one."""
    alive = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(entry / "cwd") == str(folder) and int(entry.name) != os.getpid():
                alive.append(int(entry.name))
    return alive


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_killed_at_any_moment_it_ends_with_the_same_files(tmp_path):
    with (tmp_path / "corpus.txt").open("w", encoding="utf-8") as file:
        for number in range(150_000):
            file.write(f"{number} 春眠不觉晓，处处闻啼鸟。 the {number % 977} lines of a corpus\n")
    arguments = ["--corpus", "corpus.txt", "--tokenizer", "char", "--split", "contiguous", "--workers", "2", "--shard-tokens", "200000"]
    assert run_until_killed([*arguments, "--out", "whole"], 600)
    rng, kills, ended = random.Random(0), 0, False
    while not ended:
        began = pathlib.Path("data/preparation.json").is_file()
        if not began:
            shutil.rmtree("data", ignore_errors=True)
        command = ["--out", "data", "--resume"] if began else [*arguments, "--out", "data"]
        if kills == 0:  # before anything is written: while TensorFlow is imported, or the corpus is cut
            ended = run_until_killed(command, rng.uniform(1, 4))
        elif kills < 5:
            ended = run_until_killed(command, rng.uniform(0, 0.3), "data", rng.randint(1, 8))
        else:
            ended = run_until_killed(command, 600)
        kills += not ended
        deadline = time.monotonic() + 10
        while workers_alive(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not workers_alive(tmp_path)  # those whose parent is gone end too
    assert kills >= 3
    assert contents("data") == contents("whole")
