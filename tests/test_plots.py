"""Figures that have something to get wrong; the others are tried by their docstrings."""

import numpy as np
import pytest

from keras_lm import attention_plots, plots
from keras_lm.errors import UserError

WEIGHTS = np.random.default_rng(0).dirichlet(np.ones(3), size=[8, 4])  # (heads, queries, keys)
SOURCE, TARGET = ["保存", "文件", "</s>"], ["<s>", " Save", " ", " file"]


@pytest.fixture(params=[True, False], ids=["with Chinese", "without"])
def chinese(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(plots, "use_chinese_font", lambda: False)
    elif not plots.use_chinese_font():
        pytest.skip("no font on this machine has Chinese")
    return request.param


def labels(ticks):
    return [tick.get_text() for tick in ticks]


@pytest.mark.parametrize("heads", range(1, 9))
def test_a_panel_for_each_head_on_one_scale(heads, tmp_path):
    figure = attention_plots.attention_heads(WEIGHTS[:heads], TARGET, SOURCE, tmp_path / "heads.png")
    panels = [axes for axes in figure.axes if axes.images and axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ([f"head {head}" for head in range(heads)] if heads > 1 else [""])
    for axes, expected in zip(panels, WEIGHTS, strict=False):
        np.testing.assert_array_equal(axes.images[0].get_array(), expected)  # a row a query, from the top
        assert axes.images[0].get_clim() == (0, WEIGHTS[:heads].max())
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("heads", [1, 2, 5, 7])
def test_tokens_stand_beside_the_outer_panels(heads, chinese, recwarn):
    figure = attention_plots.attention_heads(WEIGHTS[:heads], TARGET, SOURCE)
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.images and axes.get_visible()]
    assert labels(panels[0].get_yticklabels()) == ["<s>", "Save", "␣", "file"]
    assert labels(panels[-1].get_xticklabels()) == (SOURCE if chinese else ["0", "1", "</s>"])
    bottom = [panel.xaxis.get_tick_params()["labelbottom"] for panel in panels]
    columns = {1: 1, 2: 2, 5: 3, 7: 4}[heads]
    assert bottom == [number + columns >= heads for number in range(heads)]  # the lowest of each column
    assert not [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)]


def test_short_words_stand_upright_and_long_ones_are_turned():
    short, long = (attention_plots.attention_map(WEIGHTS, TARGET, keys) for keys in (SOURCE, ["保存当前的文件", "a", "b"]))
    assert [figure.axes[0].get_xticklabels()[0].get_rotation() for figure in (short, long)] == [0, 90]


def test_a_map_is_the_mean_of_the_heads_with_its_numbers(tmp_path):
    figure = attention_plots.attention_map(WEIGHTS, TARGET, SOURCE, tmp_path / "map.png")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), WEIGHTS.mean(axis=0))
    assert [text.get_text() for text in axes.texts] == [f"{value:.2f}"[1:] for value in WEIGHTS.mean(axis=0).ravel()]
    assert (tmp_path / "map.png").is_file()


def test_a_large_map_has_no_numbers():
    weights = np.full([1, 20, 20], 0.05)
    assert not attention_plots.attention_map(weights, list("abcdefghijklmnopqrst"), list("abcdefghijklmnopqrst")).axes[0].texts


def test_dollars_are_no_formulas():
    figure = attention_plots.attention_map(WEIGHTS, ["$a", "b$", "$", "$x_1$"], SOURCE)
    figure.canvas.draw()
    assert labels(figure.axes[0].get_yticklabels()) == [r"\$a", r"b\$", r"\$", r"\$x_1\$"]


def test_another_number_of_labels_is_refused():
    with pytest.raises(UserError, match="4 queries and 3 keys need as many labels, got 3 and 3"):
        attention_plots.attention_heads(WEIGHTS, SOURCE, SOURCE)


def test_many_tokens_are_written_small_and_turned():
    words = ["词"] * 60
    axes = attention_plots.attention_heads(np.full([4, 3, 60], 1 / 60), ["a", "b", "c"], words).axes[2]
    assert axes.get_xticklabels()[0].get_rotation() == 90
    assert axes.get_xticklabels()[0].get_fontsize() < 8 and axes.get_yticklabels()[0].get_fontsize() == 9


def test_words_are_numbered_only_where_their_characters_cannot_be_drawn(chinese):
    figure = plots.word_map(["日本", "Japan"], [[0.0, 1.0], [1.0, 0.0]], {"国家": ["日本"], "countries": ["Japan"]})
    assert [text.get_text() for text in figure.axes[0].texts] == ["日本" if chinese else "0", "Japan"]
    assert labels(figure.axes[0].get_legend().get_texts()) == ["国家" if chinese else "group 0", "countries"]
    figure = plots.heaviest_words({"差评": [("差", 2.0), ("bad", 1.0)], "good": [("good", 1.0)]})
    assert [axes.get_title() for axes in figure.axes] == ["差评" if chinese else "class 0", "good"]
    assert labels(figure.axes[0].get_yticklabels()) == ["差" if chinese else "1", "bad"]
    figure = plots.sense_map({"state": [[0.0, 1.0], [1.0, 0.0]]}, ["困难", "disaster"], ["很难", "hard"])
    assert labels(figure.axes[0].get_legend().get_texts()) == ["困难" if chinese else "sense 0", "disaster"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["很难" if chinese else "0", "hard"]


def test_what_cannot_be_drawn_is_said():
    for nothing in ({}, {"negative": []}):
        with pytest.raises(UserError, match="no words to draw"):
            plots.heaviest_words(nothing)
    with pytest.raises(UserError, match=r"the gradient of 'gru' at k = 0 is 0\.0"):
        plots.gradient_reach({"gru": [0.0, 0.0]})
