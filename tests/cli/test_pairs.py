"""The commands for translation and headlines, as a person types them."""

import json
import pathlib
import subprocess
import sys
import time

import pytest

from keras_lm.export import layout
from tests.cli.test_commands import BIN, call, refused

SMALL = [
    *("--task", "translation", "--model", "gru", "--embedding-dim", "16", "--num-layers", "1", "--sequence-length", "16"),
    *("--batch-size", "16", "--steps", "4", "--evaluate-every", "2", "--sample-tokens", "5", "--xla", "off"),
]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{one} plus {two}\t{one}加{two}\n" for one in range(20) for two in range(20)))
    return path


@pytest.fixture(scope="module")
def exported(small_pair_run, tmp_path_factory):
    from keras_lm.export.saved_model import export_run

    folder = tmp_path_factory.mktemp("saved_models") / "pairs"
    export_run(small_pair_run, folder)
    return folder


@pytest.mark.slow
def test_a_run_is_begun_and_keeps_its_settings(capsys, pairs):
    status, out, error = call(capsys, "train", "--corpus", pairs, *SMALL, "--sample-tokens", 0, "--out", "run")
    assert status == 0, error
    assert "pairs to train on" in error
    assert "best validation loss" in out
    assert "keras_lm-generate run --prompt" in out
    summarization = ["--task", "summarization", "--corpus", pairs]
    assert "task is 'summarization' here but 'translation' there" in refused(capsys, "train", "--out", "run", "--resume", *summarization)


@pytest.mark.slow
def test_from_pairs_to_an_export(capsys, pairs):
    """Train with an export at the end, go on, and generate from both."""
    status, out, error = call(capsys, "train", "--corpus", pairs, *SMALL, "--out", "run", "--export", "saved_models/small")
    assert status == 0, error
    assert " → " in out
    assert layout.find("saved_models/small")[1]["reads_sources"]
    knobs = ["--prompt", "3 plus 4", "--max-new-tokens", 6]
    from_run = call(capsys, "generate", "run", *knobs)
    assert from_run[0] == 0
    assert call(capsys, "generate", "saved_models/small", *knobs)[1] == from_run[1]
    assert call(capsys, "train", "--out", "run", "--resume", "--steps", 6)[0] == 0
    assert [json.loads(line)["step"] for line in pathlib.Path("run/metrics.jsonl").read_text().splitlines()] == [2, 4, 6]


@pytest.mark.slow
def test_a_target_stands_alone_and_is_the_most_probable(capsys, small_pair_run, exported):
    generator = small_pair_run.make_generator(jit_compile=False)
    (expected,) = generator.generate(["3 plus 14"], max_new_tokens=9)
    arguments = ["--prompt", "3 plus 14", "--max-new-tokens", 9]
    for flags in ([], ["--stream"], ["--num-beams", 1]):
        status, out, error = call(capsys, "generate", small_pair_run.folder, *arguments, *flags)
        assert (status, out) == (0, expected.text + "\n"), error
    assert call(capsys, "generate", exported, *arguments)[1] == expected.text + "\n"


@pytest.mark.slow
def test_samples_beams_and_constraints(capsys, small_pair_run):
    arguments = ["generate", small_pair_run.folder, "--prompt", "3 plus 14", "--max-new-tokens", 9]
    beams = call(capsys, *arguments, "--num-beams", 3, "--num-samples", 2)[1]
    assert len(set(beams.split("-" * 20 + "\n"))) == 2
    drawn = call(capsys, *arguments, "--temperature", 2, "--seed", 1, "--num-samples", 2)[1]
    assert drawn == call(capsys, *arguments, "--temperature", 2, "--seed", 1, "--num-samples", 2)[1]
    assert call(capsys, *arguments, "--allow", "三加一四")[1] == "三加一四\n"
    assert call(capsys, *arguments, "--alpha", 0.4)[0] == 0


def test_what_is_not_for_pairs_is_refused(capsys, small_pair_run, exported, pairs):
    run = small_pair_run.folder
    assert "--draft is for language models" in refused(capsys, "generate", run, "--prompt", "3", "--draft", "lookup")
    assert "characters never seen in training: ☃" in refused(capsys, "generate", run, "--prompt", "3 ☃")
    assert "characters never seen in training: ☃" in refused(capsys, "generate", exported, "--prompt", "3 ☃")
    assert "a source is empty: give at least one word" in refused(capsys, "generate", run, "--prompt", " ")
    assert "--corpus is for language models" in refused(capsys, "evaluate", run, "--corpus", pairs)
    assert "--num-beams must be at least 1, got 0" in refused(capsys, "evaluate", run, "--num-beams", 0)
    assert "--min-new-tokens must be 0 or more, got -1" in refused(capsys, "evaluate", run, "--min-new-tokens", -1)
    assert "an encoder-decoder is exported without XLA: leave --xla out" in refused(capsys, "export", run, "--xla")
    assert "an encoder-decoder is exported as a SavedModel" in refused(capsys, "export", run, "--format", "tflite")
    assert "a model for translation" in refused(capsys, "export", run, "--format", "transformers")
    assert not pathlib.Path("saved_models").exists()


def test_written_is_for_pairs(capsys, small_run):
    assert "--written is for runs of pairs and of texts with labels" in refused(capsys, "evaluate", small_run.folder, "--written", "a.tsv")


def test_evaluate_judges_what_is_written(capsys, small_pair_run):
    """The loss is that of training; what is written stands in a file, and is counted by sacrebleu."""
    from sacrebleu.metrics import BLEU

    flags = ["--part", "validation", "--num-beams", 1, "--written", "written.tsv"]
    status, out, error = call(capsys, "evaluate", small_pair_run.folder, *flags)
    assert status == 0, error
    assert out.count("\n") == 1
    result = json.loads(out)
    assert result["loss"] == pytest.approx(min(line["val_loss"] for line in small_pair_run.read_metrics()), abs=1e-6)
    rows = [line.split("\t") for line in pathlib.Path("written.tsv").read_text().splitlines()]
    assert result["texts"] == len(rows) == small_pair_run.load_tokens()["validation"].documents
    for source, text, reference in rows:
        one, two = source.split(" plus ")
        assert reference == f"{one}加{two}".translate(str.maketrans("0123456789", "〇一二三四五六七八九"))
        assert text
    bleu = BLEU(tokenize="zh").corpus_score([text for _, text, _ in rows], [[reference for *_, reference in rows]])
    assert result["bleu"] == pytest.approx(bleu.score)
    assert result["exact"] == pytest.approx(sum(text == reference for _, text, reference in rows) / len(rows))
    assert {"bleu", "chrf", "texts", "signature"} == set(result["floor"])
    status, out, error = call(capsys, "evaluate", small_pair_run.folder, *flags, "--min-new-tokens", 12)
    assert (status, json.loads(out)["min_new_tokens"]) == (0, 12), error
    assert min(len(line.split("\t")[1]) for line in pathlib.Path("written.tsv").read_text().splitlines()) > 8  # targets have three to five


@pytest.mark.slow
def test_the_learning_rate_finder_takes_pairs(capsys, pairs):
    status, out, error = call(capsys, "train", "--corpus", pairs, *SMALL, "--find-learning-rate", "rates.png")
    assert status == 0, error
    assert "--learning-rate " in out
    assert pathlib.Path("rates.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("files", "corpus", "message"),
    [
        ({"a.tsv": "a\tb\nonly one\n"}, "a.tsv", "a.tsv, line 2: a source, a tab and a target should stand here, but no tab does"),
        ({"a.tsv": "a\tb\nc\td\te\n"}, "a.tsv", "a.tsv, line 2: a source, a tab and a target should stand here, but there are 3 columns"),
        ({"a.en": "a\nb\nc\n", "a.zh": "甲\n乙\n"}, "a.en,a.zh", "a.en has 3 lines, but a.zh has 2: line 3 of a.en has no partner"),
        ({"a.tsv": "a\tb\n"}, "a.tsv", "no pair of a.tsv falls into the"),
    ],
)
def test_files_that_are_no_pairs_are_refused_and_leave_nothing(capsys, tmp_path, files, corpus, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert message in refused(capsys, "train", "--corpus", corpus, *SMALL, "--out", "run")
    assert not pathlib.Path("run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--corpus", "reverze"], "unknown pairs 'reverze': did you mean 'reverse'"),
        (["--corpus", "nosuch.tsv"], "no such file of pairs: 'nosuch.tsv'"),
        (["--corpus", "nosuch.en,nosuch.zh"], "no such file of pairs: 'nosuch.en', of 'nosuch.en,nosuch.zh'"),
        (["--model", "lstm"], "model must be gru or transformer for translation, got 'lstm'"),
        (["--split", "contiguous"], "split must be hash or given for pairs, got 'contiguous'"),
        (["--stateful", "--model", "gru"], "stateful is for --task lm, not for translation"),
        (["--tokens", "data"], "tokens is for --task lm, not for translation"),
        (["--label-smoothing", "1"], "label_smoothing must be at least 0 and under 1, got 1.0"),
    ],
)
def test_bad_arguments_answer_before_tensorflow_starts(flags, message):
    start = time.monotonic()
    result = subprocess.run([BIN / "keras_lm-train", "--task", "translation", *flags], capture_output=True, text=True)
    assert time.monotonic() - start < 1.5
    assert result.returncode == 2
    assert result.stderr.startswith("keras_lm-train: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_pairs_are_known_without_tensorflow():
    program = "import sys, keras_lm.pairs; assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)
