"""Whether an export says what the library says, byte for byte: `serving_default` against the sampler, prompt by prompt.

python benchmarks/export_parity.py runs/quickstart

The prompts are beginnings of the run's own test split, English, both mixed, emoji, nothing at all, 10,000 characters, and bytes that are
not UTF-8. The library refuses a prompt that is longer than the context where the export drops its beginning; it gets what is left of it.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.export.saved_model import default_settings, export_run
from keras_lm.export.served import MOST_TOKENS
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.text import prompt_ids
from keras_lm.training.run import Run

_ENGLISH = ("it", "is", "a", "truth", "universally", "acknowledged", "that", "a", "language", "model", "in", "want", "of", "the", "prompt")
_ODD = ("😀", "👩‍👩‍👧", "☃", "﷽", "e\u0301", "\u200b", "\n", "\t", "𠮷", "İ", "ｆｕｌｌ", "ß")


def odd_prompts(run: Run, count: int) -> list[bytes]:
    """`count` prompts of all the kinds, the same ones each time."""
    rng = np.random.default_rng(0)
    tokenizer, ids = run.load_tokenizer(), run.load_tokens()["test"].ids
    places = rng.integers(0, max(1, len(ids) - 80), count)
    rows = [ids[place : place + 1 + rng.integers(80)].tolist() for place in places]
    own = [text.decode() for text in tokenizer.detokenize(tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1)).numpy()]
    english = lambda: " ".join(rng.choice(_ENGLISH, rng.integers(1, 12)))
    odd = lambda: "".join(rng.choice(_ODD, rng.integers(1, 6)))
    broken = lambda text: bytes(rng.choice(list(text.encode()[:-1] + b"\xff\xc3\xe4\xb8\xf0\x9f"), rng.integers(1, 30)).tolist())
    kinds = (
        lambda text: text,
        lambda text: english(),
        lambda text: text[:10] + english() + text[10:20],
        lambda text: odd() + text[:5] + odd(),
        lambda text: broken(text + "中国 abc"),
    )
    prompts = [kinds[number % len(kinds)](text) for number, text in enumerate(own[:-3])]
    prompts += ["", ("".join(own) * (1 + 10_000 // max(1, len("".join(own)))))[:10_000], "x" * 10_000]
    return [prompt if isinstance(prompt, bytes) else prompt.encode() for prompt in prompts]


def library_texts(run: Run, prompts: Sequence[bytes], jit_compile: bool = True) -> list[str]:
    """What the library's sampler says, one prompt at a time, with the knobs of `serving_default`."""
    model, tokenizer, pieces = run.load_model(), run.load_tokenizer(), run.load_tokenizer().pieces()
    never = (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id)
    sampler = Sampler(model, end_id=tokenizer.end_id, never=never, jit_compile=jit_compile)
    settings, context = default_settings(sampler.decoder), sampler.decoder.context_length
    cleaned = cleaning.compose(run.settings.clean)(tf.constant([prompt.decode("utf-8", "replace") for prompt in prompts]))
    kept = context - min(settings.max_new_tokens, context // 2) if context else MOST_TOKENS
    texts = []
    for row in prompt_ids(tokenizer, cleaned, run.settings.documents).to_list():
        (text,) = sampler.generate([row[-kept:]], settings)
        texts.append(b"".join(pieces[token] for token in text.ids).decode("utf-8", "replace"))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--prompts", type=int, default=500, help="how many (default: 500)")
    parser.add_argument("--batch-size", type=int, default=50, help="prompts in a call of the export (default: 50)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    prompts = odd_prompts(run, arguments.prompts)
    expected = {jit_compile: library_texts(run, prompts, jit_compile) for jit_compile in (False, True)}
    print(f"{run.folder}: {len(prompts)} prompts, {len(set(prompts))} different, {len(set(expected[True]))} different texts")
    names = {False: "without XLA", True: "with XLA"}
    report("the library without XLA", "the library with XLA", prompts, expected[False], expected[True])
    with tempfile.TemporaryDirectory() as folder:
        for xla in (False, True):
            loaded = tf.saved_model.load(str(export_run(run, pathlib.Path(folder) / "export", xla=xla)))
            served = []
            for start in range(0, len(prompts), arguments.batch_size):
                outputs = loaded.signatures["serving_default"](prompts=tf.constant(prompts[start : start + arguments.batch_size]))
                served += [text.decode() for text in outputs["text"].numpy()]
            for jit_compile, texts in expected.items():
                report(f"the export {names[xla]}", f"the library {names[jit_compile]}", prompts, served, texts)


def report(one: str, other: str, prompts: Sequence[bytes], ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Prints how many texts are the same, and those that are not from where they part."""
    print(f"{one:<23} and {other:<23} agree on {sum(map(str.__eq__, ours, theirs))} of {len(prompts)}")
    for prompt, first, second in zip(prompts, ours, theirs, strict=True):
        if first != second:
            place = next((place for place, pair in enumerate(zip(first, second, strict=False)) if len(set(pair)) == 2), 0)
            print(f"  {prompt.decode('utf-8', 'replace')[:20]!r}: from character {place}: {first[place:][:12]!r}, {second[place:][:12]!r}")


if __name__ == "__main__":
    main()
