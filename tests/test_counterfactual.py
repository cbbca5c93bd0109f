import re

import pytest
import tensorflow as tf

from keras_lm.counterfactual import Counterfactuals, Swapper, swap_terms
from keras_lm.errors import UserError
from keras_lm.group_terms import GROUPS, read_group_terms


@pytest.mark.parametrize("group", GROUPS)
def test_swapping_is_an_involution_on_packaged_terms(group):
    swap = Swapper(group)
    for pair in read_group_terms().pairs_of(group):
        behind = " book" if pair.slot == "possessive" else ""
        assert swap(pair.first + behind) == pair.second + behind and swap(pair.second + behind) == pair.first + behind
        if pair.language == "en" and pair.first.islower():
            for change in (str.upper, lambda term: term[0].upper() + term[1:]):
                assert swap(swap(change(pair.first) + behind)) == change(pair.first) + behind


@pytest.mark.parametrize("group", GROUPS)
def test_swapped_prompts_are_those_of_the_other_side(group):
    """What is exchanged in texts is what differs in prompts."""
    terms, swap = read_group_terms(), Swapper(group)
    for pair in terms.pairs_of(group):
        for template in terms.templates:
            if template.takes(pair):
                assert swap(template.fill(pair.first, pair.slot)) == template.fill(pair.second, pair.slot)


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("他和其他人，还有马耳他的她们", "她和其他人，还有马耳他的他们"),
        ("女儿和儿子", "儿子和女儿"),
        ("孙先生和孙女", "孙女士和孙子"),
        ("The man and the woman; a woman's mankind", "The woman and the man; a man's mankind"),
        ("He saw her. Her dog saw her and the king.", "She saw him. His dog saw him and the queen."),
        ("He said to her: “THE QUEEN”", "She said to him: “THE KING”"),
        ("他用English写she的故事", "她用English写he的故事"),
        ("", ""),
        ("there the theme", "there the theme"),
    ],
)
def test_gender_is_exchanged(text, swapped):
    assert Swapper("gender")(text) == swapped


def test_the_longest_term_is_taken():
    swap = Swapper("age")
    assert swap("青年教师和青年") == "老教师和老人"
    assert swap("A young man and a youth, youthful") == "A old man and a elder, youthful"
    assert Swapper("region")("a Londoner, a native, a NATIVE") == "a Welshman, a foreigner, a FOREIGNER"


def test_it_runs_inside_a_dataset_and_leaves_bytes_alone():
    swapper = Swapper("gender")
    texts = tf.data.Dataset.from_tensor_slices([b"\xe4\xbb\x96 \xff he", b"rain"]).batch(2).map(lambda texts: swap_terms(texts, swapper))
    (batch,) = texts
    assert batch.numpy().tolist() == [b"\xe5\xa5\xb9 \xff she", b"rain"] and texts.element_spec.shape.rank == 1


def test_documents_held_out_stay_as_they_are():
    twice = Counterfactuals(["gender", "age"])
    texts = [("train", "他是青年"), ("validation", "他"), ("test", "她"), ("train", "雨"), ("train", "他")]
    assert list(twice(iter(texts))) == [
        ("train", "他是青年"),
        ("train", "她是青年"),
        ("train", "他是老人"),
        *texts[1:],
        ("train", "她"),
    ]
    assert (twice.documents, twice.added) == (3, 3) and "3 counterparts of 3 documents" in str(twice)
    assert list(Counterfactuals([])(iter(texts))) == texts


def test_what_was_added_is_exactly_as_much_on_either_side():
    texts = [("train", text) for text in ("他来了", "他走了", "她来了", "他们的妻子", "下雨了")]
    added = list(Counterfactuals(["gender"])(iter(texts)))
    joined = "".join(text for _, text in added)
    assert all(len(re.findall(one, joined)) == len(re.findall(other, joined)) for one, other in (("他", "她"), ("妻子", "丈夫")))


def test_unknown_groups_are_refused():
    with pytest.raises(UserError, match="unknown group 'hight'"):
        Swapper("hight")
    with pytest.raises(UserError, match="named twice"):
        Counterfactuals(["age", "age"])
