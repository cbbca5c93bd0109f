import dataclasses

import pytest
import yaml

from keras_lm import cleaning, corpora, layers, models, pipeline, tokenizers
from keras_lm.errors import UserError
from keras_lm.training import settings as settings_module
from keras_lm.training.run import read_yaml, settings_from
from keras_lm.training.settings import CHOICES, TrainingSettings


def test_choices_are_the_tables_of_the_library():
    assert set(CHOICES["model"]) == set(models.MODELS)
    assert set(CHOICES["tokenizer"]) == set(tokenizers.TOKENIZERS)
    assert CHOICES["split"] == pipeline.SPLIT_MODES
    assert CHOICES["document"] == corpora.DOCUMENT_UNITS
    assert CHOICES["normalization"] == layers.NORMALIZATIONS
    assert set(settings_module.CLEANERS) == set(cleaning.CLEANERS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": -5}, "steps must be at least 1, got -5"),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"batch_size": "many"}, "batch_size must be a whole number, got 'many'"),
        ({"tied": "perhaps"}, "tied must be true or false, got 'perhaps'"),
        ({"learning_rate": 0.0}, "learning_rate must be over 0, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be over 0, got nan"),
        ({"dropout": 1.0}, "dropout must be at least 0 and under 1, got 1.0"),
        ({"num_heads": 3}, r"num_heads must be a divisor of embedding_dim \(256\), got 3"),
        ({"num_kv_heads": 3}, r"num_kv_heads must be a divisor of num_heads \(4\), got 3"),
        ({"embedding_dim": 4, "num_heads": 4}, "an even multiple of num_heads"),
        ({"model": "lstn"}, "unknown model 'lstn': did you mean 'lstm'"),
        ({"tokenizer": "words"}, "unknown tokenizer 'words'"),
        ({"split": "hsah"}, "unknown split 'hsah': did you mean 'hash'"),
        ({"clean": ("lowr",)}, "unknown cleaner 'lowr': did you mean 'lower'"),
        ({"stateful": True}, "stateful is for recurrent models"),
        ({"batch_size": 10, "accumulate": 3}, r"batch_size must be a multiple of accumulate \(3\), got 10"),
    ],
)
def test_values_that_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        TrainingSettings(**values)


def test_a_recipe_takes_the_forms_that_people_write(tmp_path):
    (tmp_path / "r.yaml").write_text("learning_rate: 1e-3\nxla: off\nclean: [nfkc, lower]\nnum_kv_heads:\n")
    settings = settings_from(read_yaml(tmp_path / "r.yaml"), "r.yaml")
    assert (settings.learning_rate, settings.xla, settings.clean, settings.num_kv_heads) == (0.001, "off", ("nfkc", "lower"), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: 3\n", r"r\.yaml: unknown field 'step': did you mean 'steps'"),
        ("steps: many\n", r"r\.yaml: steps must be a whole number, got 'many'"),
        ("- steps\n", "must hold 'field: value' lines"),
        ("steps: [\n", "is not YAML"),
    ],
)
def test_recipes_that_are_refused(tmp_path, text, message, monkeypatch):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        settings_from(read_yaml("r.yaml"), "r.yaml")


def test_every_recipe_of_the_repository_is_valid(repository):
    recipes = sorted((repository / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        settings = settings_from(read_yaml(recipe), recipe.name)
        assert settings.folder == f"runs/{recipe.stem}"
        known = {field.name for field in dataclasses.fields(TrainingSettings)}
        assert set(yaml.safe_load(recipe.read_text())) <= known


def test_default_folder_is_made_of_corpus_and_model():
    assert TrainingSettings(corpus="texts/*.txt", model="gru").folder == "runs/texts---txt-gru"
