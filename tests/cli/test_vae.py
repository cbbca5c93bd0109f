"""The commands for sentence VAEs, as a person types them."""

import json
import pathlib

import pytest

from tests.cli.test_commands import call, refused

SMALL = [
    *("--task", "vae", "--model", "gru", "--embedding-dim", "8", "--num-layers", "1", "--latent-dim", "4", "--sequence-length", "24"),
    *("--batch-size", "16", "--steps", "2", "--evaluate-every", "2", "--sample-tokens", "5", "--xla", "off"),
]


def test_a_collapsed_run_is_told_in_training_and_in_evaluation(capsys):
    pathlib.Path("sentences.txt").write_text("".join(f"{one} and {two}\n" for one in range(20) for two in range(20)))
    status, out, error = call(capsys, "train", "--corpus", "sentences.txt", *SMALL, "--out", "run")
    assert status == 0, error
    assert "best validation bound:" in out
    assert "the posterior has collapsed: the KL is" in error
    status, out, error = call(capsys, "evaluate", "run", "--importance-samples", 3)
    assert status == 0, error
    values = json.loads(out)
    assert values["collapsed"]
    assert values["importance_samples"] == 3
    assert values["importance_weighted_perplexity"] < values["perplexity"] * 1.01
    assert "keras_lm-evaluate: the posterior has collapsed" in error


def test_the_parts_of_the_bound_are_told(capsys, small_vae_run):
    status, out, error = call(capsys, "evaluate", small_vae_run.folder, "--part", "validation", "--importance-samples", 0)
    assert status == 0, error
    values = json.loads(out)
    assert values["loss"] * values["tokens"] == pytest.approx((values["reconstruction"] + values["kl"]) * values["sentences"], rel=1e-6)
    assert not values["collapsed"]
    assert "importance_weighted_perplexity" not in values
    assert "collapsed" not in error


def test_sentences_of_vectors(capsys, small_vae_run):
    generate = lambda *flags: call(capsys, "generate", small_vae_run.folder, *flags, "--max-new-tokens", 12)
    prior = generate("--from-prior", "--num-samples", 3, "--seed", 2)
    assert prior[0] == 0, prior[2]
    assert prior[1].count("\n") == 3
    assert prior[1] == generate("--from-prior", "--num-samples", 3, "--seed", 2)[1]
    between = generate("--between", "房间很好。", "早餐不贵！", "--num-samples", 4)
    assert between[1].count("\n") == 4
    written = generate("--prompt", "房间很好。")
    assert written[1].splitlines()[0] == between[1].splitlines()[0]
    assert generate("--prompt", "房间很好。", "--radius", 0, "--num-samples", 2)[1].splitlines() == written[1].splitlines() * 2


def test_what_cannot_be_asked_is_refused(capsys, small_vae_run, small_run):
    run = small_vae_run.folder
    assert "give one of --prompt TEXT, --from-prior and --between" in refused(capsys, "generate", run)
    assert "give one of --prompt TEXT, --from-prior and --between" in refused(capsys, "generate", run, "--prompt", "房", "--from-prior")
    assert "is no run folder of --task vae" in refused(capsys, "generate", small_run.folder, "--from-prior")
    assert "--radius must be 0 or more, got -1.0" in refused(capsys, "generate", run, "--prompt", "房", "--radius", -1)
    assert "--num-samples must be at least 2" in refused(capsys, "generate", run, "--between", "房", "早", "--num-samples", 1)
    assert "leave --stream" in refused(capsys, "generate", run, "--from-prior", "--stream")
    assert "characters never seen in training: Q" in refused(capsys, "generate", run, "--between", "房", "Q")
    assert "--importance-samples must be 0 or more" in refused(capsys, "evaluate", run, "--importance-samples", -1)
