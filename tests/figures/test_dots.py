"""Dots: where they stand, and that no two series look alike in black and white."""

import numpy as np

from kdtutor import figures


def test_each_value_has_its_dot_and_each_series_its_shape():
    series = {"before": [10.0, 40.0, 0.0], "after": [90.0, 30.0, 0.0], "never": [5.0, 5.0, 5.0]}
    figure = figures.dots(["shirt", "coat", "bag"], series, "recall (%)")
    (axes,) = figure.axes
    lines, *drawn = axes.collections
    for values, collection in zip(series.values(), drawn, strict=True):
        np.testing.assert_array_equal(collection.get_offsets(), list(zip(values, range(3), strict=True)))
    assert len({collection.get_paths()[0].vertices.tobytes() for collection in drawn}) == 3
    spans = [sorted(segment[:, 0]) for segment in lines.get_segments()]
    assert spans == [[5.0, 90.0], [5.0, 40.0], [0.0, 5.0]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["shirt", "coat", "bag"]
    assert axes.yaxis_inverted()  # the first name on top
    figure.draw_without_rendering()
