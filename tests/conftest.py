"""What the tests share: a scripted model whose answers can be read, and one small run that is trained once."""

from __future__ import annotations

import itertools
import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm.training import loop
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _scratch(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scripted_model(script: list[int], vocabulary_size: int) -> keras.Model:
    """A model that says `script` whatever it is asked: after token number n (n = its position in the script) comes token n+1.

    Built from an Embedding and a Dense alone: the embedding is the identity, the kernel a permutation, so that each token of the
    script (all different) is followed by the next one.
    """
    kernel = np.zeros((vocabulary_size, vocabulary_size), np.float32)
    for token, following in itertools.pairwise(script):
        kernel[token, following] = 50.0
    model = keras.Sequential(
        [
            keras.Input([None], dtype="int32"),
            keras.layers.Embedding(vocabulary_size, vocabulary_size),
            keras.layers.Dense(vocabulary_size, use_bias=False),
        ]
    )
    model.set_weights([np.eye(vocabulary_size, dtype=np.float32), kernel])
    return model


@pytest.fixture(scope="session")
def small_settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingSettings:
    """A GRU on the language reference that every Python brings."""
    return TrainingSettings(
        corpus="pydoc",
        model="gru",
        embedding_dim=32,
        hidden_dim=64,
        num_layers=1,
        sequence_length=32,
        batch_size=16,
        steps=60,
        evaluate_every=30,
        warmup_steps=10,
        learning_rate=0.01,
        sample_prompt="The ",
        sample_tokens=20,
        out=str(tmp_path_factory.mktemp("runs") / "small"),
    )


@pytest.fixture(scope="session")
def small_run(small_settings: TrainingSettings) -> Run:
    """A run of `small_settings`, trained to its end. Tests must not change it."""
    run = prepare(small_settings)
    loop.train(run)
    return run


@pytest.fixture(scope="session")
def small_pair_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A GRU that has begun to translate «3 plus 14» into 三加一四, trained to its end. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    digits = str.maketrans("0123456789", "〇一二三四五六七八九")
    lines = [f"{one} plus {two}\t" + f"{one}加{two}\n".translate(digits) for one in range(20) for two in range(20)]
    (folder / "pairs.tsv").write_text("".join(lines), encoding="utf-8")
    settings = TrainingSettings(
        task="translation",
        corpus=str(folder / "pairs.tsv"),
        model="gru",
        embedding_dim=32,
        hidden_dim=48,
        num_layers=1,
        sequence_length=16,
        batch_size=16,
        steps=240,
        evaluate_every=120,
        warmup_steps=10,
        learning_rate=0.01,
        sample_prompt="3 plus 14",
        sample_tokens=8,
        out=str(folder / "pairs"),
    )
    run = prepare(settings)
    loop.train(run)
    return run


@pytest.fixture(scope="session")
def small_label_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A GRU that has learnt whether a sentence praises, trained to its end. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    things, good, bad = (
        ("房间", "早餐", "服务", "位置", "这本书", "电脑"),
        ("很好", "不错", "很满意", "真棒"),
        ("很差", "糟糕", "太吵", "失望"),
    )
    ends = ("。", "！", "，下次再说。", "，朋友也这么说。", "，真的。", "")
    lines = [
        f"{thing}{word}{end}\t{label}\n"
        for thing in things
        for label, words in (("good", good), ("bad", bad))
        for word in words
        for end in ends
    ]
    (folder / "texts.tsv").write_text("".join(lines), encoding="utf-8")
    return _trained(folder, task="classification", corpus="texts.tsv", steps=60)


@pytest.fixture(scope="session")
def small_tag_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A GRU with a CRF that has learnt to mark the words of small sentences, trained to its end. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    parts = (
        ("我/r", "他们/r", "老师/n"),
        ("喜欢/v", "看/v", "不/d 看/v"),
        ("编程/vn", "图书馆/n", "书/n", "新/a 电影/n"),
        ("。/w", "！/w", ""),
    )
    lines = [" ".join(word for word in words if word) + "\n" for words in itertools.product(*parts)]
    (folder / "marked.txt").write_text("".join(lines), encoding="utf-8")
    return _trained(folder, task="tagging", corpus="marked.txt", steps=60)


@pytest.fixture(scope="session")
def small_answer_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A GRU that has learnt to find names and years in small passages, trained to its end. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    paragraphs = []
    names, books = ("鲁迅", "巴金", "老舍", "茅盾", "冰心"), ("《呐喊》", "《家》", "《茶馆》", "《子夜》")
    for number, (name, book, said) in enumerate(itertools.product(names, books, ("很有名", "有不少人读过", "是小说"))):
        year = f"{1900 + number}年"
        passage = f"{book}{said}，{name}在{year}写成了它。"
        answers = (("谁写的？", name), ("哪年写的？", year))
        asked = [
            {"id": f"{number}{question}", "question": question, "answers": [{"text": answer, "answer_start": passage.index(answer)}]}
            for question, answer in answers
        ]
        paragraphs.append({"context": passage, "qas": asked})
    (folder / "books.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return _trained(folder, task="answering", corpus="books.json", steps=100)


@pytest.fixture(scope="session")
def small_similar_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A GRU that has learnt which answers belong to which remarks, trained to its end. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    things, words = ("房间", "早餐", "服务", "位置", "这本书", "电脑"), (("很好", "不错"), ("太小", "不大"), ("贵", "花钱"), ("旧", "老"))
    lines = [
        f"{thing}{word}{end}\t说到{thing}，{other}\n" for thing in things for word, other in words for end in ("。", "！", "", "，真的")
    ]
    (folder / "pairs.tsv").write_text("".join(lines), encoding="utf-8")
    return _trained(folder, task="similarity", corpus="pairs.tsv", steps=60)


@pytest.fixture(scope="session")
def small_vae_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A sentence VAE that has learnt to tell small sentences apart, trained to its end. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    parts = (
        ("房间", "早餐", "服务", "位置", "这本书", "电脑"),
        ("很", "不", "太", "真"),
        ("好", "新", "大", "贵", "快"),
        ("。", "！", "，下次再说。"),
    )
    (folder / "sentences.txt").write_text("".join(f"{''.join(words)}\n" for words in itertools.product(*parts)), encoding="utf-8")
    changes = {"latent_dim": 4, "free_bits": 1.0, "kl_steps": 100, "word_dropout": 0.2, "sample_tokens": 16, "sequence_length": 16}
    return _trained(folder, task="vae", corpus="sentences.txt", model="lstm", steps=200, evaluate_every=100, **changes)


def _trained(folder: pathlib.Path, *, corpus: str, **changes: object) -> Run:
    small = {
        "model": "gru",
        "embedding_dim": 16,
        "hidden_dim": 16,
        "num_layers": 1,
        "sequence_length": 24,
        "batch_size": 16,
        "evaluate_every": 20,
        "warmup_steps": 5,
        "learning_rate": 0.02,
        "xla": "off",
    }
    settings = TrainingSettings(corpus=str(folder / corpus), out=str(folder / "run"), **{**small, **changes})
    run = prepare(settings)
    loop.train(run)
    return run


def as_ids(rows: list[list[int]]) -> tf.RaggedTensor:
    return tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1)


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the checkout."""
    return pathlib.Path(__file__).resolve().parents[1]
