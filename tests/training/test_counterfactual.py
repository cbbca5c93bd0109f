"""`--counterfactual`: what a run learns from, and what becomes of its differences."""

import numpy as np
import pytest

from keras_lm.errors import UserError
from keras_lm.group_terms import GroupTerms, Template, TermPair
from keras_lm.insight.fairness import likelihood_differences, paired_prompts
from keras_lm.training import loop
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings

ENDS = ("医院里有人这样说。", "昨天下了雨。", "大家都知道。", "我们走吧。", "会议开了三天。")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A text in which he is bold and she is shy, always."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    lines = [f"{number}号，{who}很{how}。{end}" for number in range(60) for who, how in (("他", "大胆"), ("她", "小心")) for end in ENDS]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def settings_of(corpus, folder, **changes):
    sizes = {"embedding_dim": 24, "hidden_dim": 32, "num_layers": 1, "sequence_length": 32, "batch_size": 16}
    course = {"steps": 300, "evaluate_every": 100, "warmup_steps": 10, "learning_rate": 0.01, "sample_tokens": 0}
    return TrainingSettings(corpus=str(corpus), model="gru", out=str(folder), **sizes, **course, **changes)


def texts_of(run, split):
    tokenizer, ids = run.load_tokenizer(), np.asarray(run.load_tokens()[split].ids[:])
    ends = np.flatnonzero(ids == tokenizer.end_id)
    return [tokenizer.detokenize([row.tolist()]).numpy()[0].decode() for row in np.split(ids, ends + 1)[:-1]]


def test_documents_to_learn_from_stand_there_twice_and_no_others(corpus, tmp_path, capsys):
    plain, twice = (prepare(settings_of(corpus, tmp_path / str(groups), counterfactual=groups)) for groups in ((), ("gender",)))
    assert "exchanged, too" in capsys.readouterr().err
    before, after = texts_of(plain, "train"), texts_of(twice, "train")
    assert after[::2] == before and len(after) == 2 * len(before)
    assert after[1::2] == [text.translate(str.maketrans("他她", "她他")) for text in before]
    for split in ("validation", "test"):
        assert texts_of(plain, split) == texts_of(twice, split)
    assert Run.open(twice.folder).settings.counterfactual == ("gender",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counterfactual": ("gendre",)}, "unknown group 'gendre': did you mean 'gender'"),
        ({"counterfactual": ("age", "age")}, "the group age is named twice"),
        ({"counterfactual": ("age",), "task": "classification"}, "counterfactual is for lm, masked and vae, not for classification"),
        ({"counterfactual": ("age",), "task": "translation"}, "counterfactual is for lm, masked and vae, not for translation"),
        ({"counterfactual": ("age",), "split": "contiguous"}, "split must be hash or given with counterfactual"),
        ({"counterfactual": ("age",), "tokens": "data/wiki"}, "counterfactual is for a corpus, not for tokens"),
        ({"counterfactual": "age"}, "counterfactual must be a list of names"),
    ],
)
def test_settings_that_contradict_it_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        TrainingSettings(**changes)


@pytest.mark.slow
def test_a_model_that_has_read_both_sides_favours_neither(corpus, tmp_path):
    templates = [Template("any", "zh", f"{number}号，{{subject}}很", "大胆。", "小心。") for number in range(4)]
    terms = GroupTerms((TermPair("gender", "zh", "pronoun", "他", "她"),), tuple(templates), ())
    prompts, favour = paired_prompts(terms, ["gender"], "zh"), {}
    for groups in ((), ("gender",)):
        run = prepare(settings_of(corpus, tmp_path / str(groups), counterfactual=groups))
        loop.train(run)
        favour[groups] = likelihood_differences(run, prompts)["favour"]
    assert favour[()].min() > 4
    assert np.abs(favour[("gender",)]).max() < 1
