"""Soft ranks against values."""

import torch

from kdtutor.figures import staircase


def test_the_staircase_goes_through_its_points_from_left_to_right():
    values, ranks = torch.tensor([0.5, -1.0, 2.0]), {"true": torch.tensor([2.0, 1.0, 3.0])}
    (line,) = staircase(values, ranks).axes[0].lines
    assert list(line.get_xdata()) == [-1.0, 0.5, 2.0] and list(line.get_ydata()) == [1.0, 2.0, 3.0]
    assert line.get_label() == "true"
