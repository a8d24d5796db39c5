"""What all explorers share: controls, a picture that follows them, its main numbers in words, a question."""

import base64
import html

import ipywidgets as widgets
from matplotlib.figure import Figure
from torch import Tensor

from ..data import ImageSet
from ..figures import DPI, png_bytes
from ..losses._checks import check_float_tensor

WIDE = {"style": {"description_width": "90px"}, "layout": widgets.Layout(width="460px", max_width="100%")}


class Explorer(widgets.VBox):
    """What all explorers share. One of your own builds a figure once and writes `follow`.

    Args:
        name: its CSS class is kdtutor-<name>.
        figure: never rebuilt, since moving its artists is several times as fast.
        controls: widgets with a `value`; the figure follows each of them.
        question: what the reader should find out.
    """

    def __init__(self, name: str, figure: Figure, controls: list[widgets.Widget], question: str):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is settled now; settling it anew would double each draw
        self.figure = figure
        self.picture = widgets.HTML()
        self.numbers = widgets.HTML()
        asked = widgets.HTML(f"<p><b>Find out:</b> {html.escape(question)}</p>")
        super().__init__([*controls, self.picture, self.numbers, asked])
        self.add_class("kdtutor-explorer")
        self.add_class(f"kdtutor-{name}")
        for control in controls:
            control.observe(self._redraw, "value")
        self._redraw()

    def follow(self) -> tuple[str, dict[str, str]]:
        """Move the artists to where the controls stand.

        Returns:
            What the picture shows, in words and without a network's numbers, for readers who cannot see it;
            and the main numbers, name -> value.
        """
        raise NotImplementedError(f"{type(self).__name__} must write follow()")

    def _redraw(self, change=None) -> None:
        self.alt, numbers = self.follow()
        self.png = base64.b64encode(png_bytes(self.figure)).decode()
        width = round(self.figure.get_figwidth() * DPI)
        self.picture.value = (
            f'<img alt="{html.escape(self.alt)}" src="data:image/png;base64,{self.png}" '
            f'style="width: {width}px; max-width: 100%">'
        )
        said = " &nbsp;·&nbsp; ".join(
            f"{html.escape(name)} <b>{html.escape(value)}</b>" for name, value in numbers.items()
        )
        self.numbers.value = f'<p aria-live="polite">{said}</p>'

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle |= {"text/plain": self.alt, "image/png": self.png}
        return bundle, {"image/png": {"alt": self.alt}}


def checked_logits(name: str, logits: Tensor, data: ImageSet) -> Tensor:
    check_float_tensor(name, logits)
    if logits.shape != (len(data), data.num_classes):
        raise ValueError(
            f"{name} has shape {tuple(logits.shape)}, wanted ({len(data)}, {data.num_classes}): "
            f"one row for each image of {data.name}, one column for each class"
        )
    if not logits.isfinite().all():
        raise ValueError(f"{name} has values that are not finite; look for NaN or infinity in the network's weights")
    return logits.detach().double().cpu()
