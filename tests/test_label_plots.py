import numpy as np

from keras_lm import label_plots


def test_the_matrix_has_each_count_and_is_written(tmp_path):
    counts = np.array([[5, 0, 1], [2, 7, 0], [0, 0, 3]])
    figure = label_plots.confusion_matrix(counts, ["体育", "财经", "politics"], tmp_path / "matrix.png")
    assert [int(text.get_text()) for text in figure.axes[0].texts] == [5, 1, 2, 7, 3]
    assert (tmp_path / "matrix.png").stat().st_size > 5000


def test_the_curve_goes_through_the_share_of_right_answers_of_each_bin(tmp_path):
    probabilities = np.array([[0.55, 0.45]] * 4 + [[0.95, 0.05]] * 10)
    labels = [0, 0, 1, 1] + [0] * 9 + [1]
    figure = label_plots.calibration(probabilities, labels, tmp_path / "calibration.png")
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "here"]
    np.testing.assert_allclose(line.get_xdata(), [0.55, 0.95])
    np.testing.assert_allclose(line.get_ydata(), [0.5, 0.9])
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0, 0, 0, 0, 0, 4, 0, 0, 0, 10]
