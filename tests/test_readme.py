"""The READMEs: their commands and their code run as written, and both languages say the same."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

BIN = pathlib.Path(sys.executable).parent


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_both_readmes_hold_the_same_code_and_figures(repository):
    english, chinese = repository / "README.md", repository / "README.zh-CN.md"
    for language in ("bash", "python"):
        strip = lambda block: re.sub(r" +#.*", "", block)
        assert list(map(strip, blocks(english, language))) == list(map(strip, blocks(chinese, language)))
    figures = lambda path: sorted(re.findall(r"\d\.\d{2,}", path.read_text(encoding="utf-8")))
    assert figures(english) == figures(chinese)
    headings = lambda path: len(re.findall(r"^## ", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert headings(english) == headings(chinese)


def test_files_that_the_documents_name_exist(repository):
    for document in [*repository.glob("*.md"), *repository.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} names {target}"


@pytest.mark.slow
def test_the_python_code_of_the_readme_runs(repository, tmp_path):
    (code,) = blocks(repository / "README.md", "python")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "log_likelihood" in result.stdout


@pytest.mark.slow
def test_the_commands_of_the_readme_run(repository, tmp_path):
    """As written, but for fewer steps of a smaller model."""
    book = "It was the best of times, it was the worst of times, it was the age of wisdom.\n"
    (tmp_path / "book.txt").write_text("".join(f"{number}. {book}" for number in range(400)))
    (tmp_path / "wiki").mkdir()
    for number in range(3):
        (tmp_path / "wiki" / f"{number}.txt").write_text((tmp_path / "book.txt").read_text())
    pairs = "".join(f"{number}. Good morning.\t{number}。早上好。\n" for number in range(200))
    (tmp_path / "pairs.tsv").write_text(pairs, encoding="utf-8")
    texts = "".join(f"text number {number}\t{'even' if number % 2 == 0 else 'odd'}\n" for number in range(200))
    (tmp_path / "texts.tsv").write_text(texts, encoding="utf-8")
    letters = "".join(f"Call 555-01{number:02} or write to number.{number}@example.org.\n" for number in range(100))
    (tmp_path / "letters.txt").write_text(letters)
    (tmp_path / "texts.txt").write_text(texts.replace("\t", " "), encoding="utf-8")
    (tmp_path / "recipes").symlink_to(repository / "recipes")
    (commands,) = [block for block in blocks(repository / "README.md", "bash") if "runs/book" in block]
    small = ["--steps", "4", "--evaluate-every", "2", "--embedding-dim", "16"]
    for line in commands.strip().splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "keras_lm-train" and "--resume" not in words:
            words += small
            if "--config" not in words:
                words += ["--sequence-length", "96" if "answering" in words else "32"]  # a question has up to 60 characters
        words += {"keras_lm-prepare": ["--vocabulary-size", "320"], "keras_lm-problems": ["--count", "1000"]}.get(words[0], [])
        environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
        if "--learned" in words:  # what a model writes that has seen so little is no plan, and that is said
            assert "the model's plan leads to no goal" in result.stderr
            continue
        assert result.returncode == 0, (line, result.stderr)
        if words[0] == "keras_lm-generate" and "runs/translator" not in words and "--grammar" not in words:
            assert result.stdout.startswith("It was")
    assert (tmp_path / "saved_models" / "book" / "1" / "saved_model.pb").is_file()
