"""What the repository says of itself: names, dependencies, commands."""

import configparser
import importlib
import importlib.util
import re
import subprocess
import sys

import keras_lm


def test_public_names_exist():
    for name in keras_lm.__all__:
        assert getattr(keras_lm, name) is not None
    assert set(keras_lm.__all__) <= set(dir(keras_lm))


def test_importing_the_package_and_the_commands_imports_no_tensorflow():
    program = (
        "import sys, keras_lm, keras_lm.cli.train, keras_lm.cli.generate, keras_lm.cli.evaluate, keras_lm.cli.export\n"
        "import keras_lm.cli.prepare, keras_lm.cli.predict, keras_lm.cli.chat, keras_lm.cli.serve, keras_lm.cli.audit\n"
        "print([name for name in ('tensorflow', 'keras', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip() == "[]"


def test_names_in_the_table_of_the_articles_exist(repository):
    names = re.findall(r"`(keras_lm(?:\.\w+)+)`", (repository / "docs" / "articles.md").read_text(encoding="utf-8"))
    assert len(names) > 20
    for name in set(names):
        module, _, attribute = name.rpartition(".")
        if importlib.util.find_spec(module) and hasattr(importlib.import_module(module), attribute):
            continue
        assert importlib.util.find_spec(name), name


def test_requirements_are_those_of_setup_cfg(repository):
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    sections = [
        config["options"]["install_requires"],
        config["options.extras_require"]["corpora"],
        config["options.extras_require"]["test"],
    ]
    wanted = {re.sub(r"\s", "", line) for section in sections for line in section.strip().splitlines()}
    lines = (repository / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == wanted
    assert all(">=" in line and "<" in line for line in wanted)


def test_console_scripts_exist(repository):
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    for line in config["options.entry_points"]["console_scripts"].strip().splitlines():
        module, _, function = line.partition("=")[2].strip().partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_tests_that_have_not_begun_in_time_are_left_out_and_counted(repository):
    for seconds, outcome in (("0", "skipped"), ("1000", "passed")):
        command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--begin-within", seconds, "tests/test_cleaning.py"]
        answer = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True)
        counted = re.findall(r"\d+ (\w+)", answer.stdout.strip().splitlines()[-1])
        assert counted[0] == outcome, answer.stdout


IMPORT = re.compile(r"^\s*(?:from|import) keras_lm\.?(\w*)(?: import (\w+))?", re.MULTILINE)


def test_imports_run_one_way(repository):
    """A station imports itself and those before it, never a later one."""
    stations = (
        "errors",
        "tracing",
        "files",
        "corpora",
        "deduplication",
        "segmentation",
        "privacy",
        "lexicons",
        "group_terms",
        "augmentation",
        "cleaning",
        "counterfactual",
        "text_codec",
        "tokenizer_base",
        "subwords",
        "byte_pairs",
        "word_pieces",
        "tokenizers",
        "token_names",
        "shards",
        "pipeline",
        "labelled",
        "tagged",
        "pairs",
        "passages",
        "cloze",
        "parallel",
        "label_batches",
        "masking",
        "input_service",
        "preparation",
        "cells",
        "products",
        "dropout",
        "word_dropout",
        "attention",
        "layers",
        "models",
        "recurrent",
        "recurrent_attention",
        "pointer",
        "seq2seq",
        "crf",
        "pooling",
        "ngram_logits",
        "sentence_vectors",
        "vae",
        "heads",
        "tuning",
        "evaluation",
        "label_evaluation",
        "vae_evaluation",
        "scaling",
        "plots",
        "attention_plots",
        "label_plots",
        "latent_plots",
        "insight_plots",
    )
    stations += (
        "generation",
        "classical",
        "embeddings",
        "similar",
        "examples",
        "pretrained",
        "training",
        "tasks",
        "planning",
        "insight",
        "export",
        "serving",
        "cli",
    )
    for path in (repository / "keras_lm").rglob("*.py"):
        station = path.relative_to(repository / "keras_lm").parts[0].removesuffix(".py")
        if station == "__init__":
            continue
        for imported in re.findall(
            r"^\s*(?:from|import) keras_lm\.?(\w*)(?: import (\w+))?", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            name = imported[0] or imported[1]
            if name in stations:
                assert stations.index(name) <= stations.index(station), f"{path.name} imports {name}"
