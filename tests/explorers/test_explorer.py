"""What all explorers share, tried on one of a reader's own. test_browser.py moves them by mouse and keyboard."""

import ipywidgets as widgets
import pytest
from matplotlib.figure import Figure

from kdtutor.explorers import Explorer


def test_an_explorer_of_ones_own():
    class Line(Explorer):
        def __init__(self):
            figure = Figure()
            (self.line,) = figure.subplots().plot([0, 1], [0, 1])
            self.height = widgets.FloatSlider(0.5, min=0, max=1)
            super().__init__("line", figure, [self.height], "how high is 2 < 3?")

        def follow(self):
            self.line.set_ydata([0, self.height.value])
            return "A line.", {"height": f"{self.height.value:.1f}"}

    explorer = Line()
    before = explorer.png
    explorer.height.value = 0.9
    assert explorer.png != before
    assert "0.9" in explorer.numbers.value
    assert "2 &lt; 3" in explorer.children[-1].value
    with pytest.raises(NotImplementedError, match="Explorer must write follow"):
        Explorer("nothing", Figure(), [], "?")
