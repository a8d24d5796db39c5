"""What all figures share: the palette, a quiet ground, and the way into a notebook with a description in words."""

import base64
import io

from matplotlib.figure import Figure

COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C00", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":")
HATCHES = ("", "//", "..")
INK = "#7a7a7a"
DPI = 100  # of the page; `show` draws twice as fine, for screens that can show it


def show(figure: Figure, alt: str) -> None:
    """Put a figure under the notebook's cell, as a PNG with its description in words.

    Args:
        alt: what a reader who cannot see the figure should know of it. It is stored beside the picture, as text, so
            it names what is drawn and not a trained network's numbers, which move a little from machine to machine.
    """
    from IPython.display import display

    png = base64.b64encode(png_bytes(figure, dpi=2 * DPI, compress_level=9)).decode()
    width = round(figure.get_figwidth() * DPI)
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt, "width": width}})


def png_bytes(figure: Figure, dpi: int = DPI, compress_level: int = 1) -> bytes:
    """The figure as a PNG: quickly, as explorers want it, unless asked to pack it tighter."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"compress_level": compress_level})
    return buffer.getvalue()


def new_figure(width: float = 7.0, height: float = 4.0, columns: int = 1):
    """A figure with `columns` panels side by side, in the course's colours: (figure, list of axes)."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        quiet(axes)
    return figure, panels


def quiet(axes) -> None:
    """Grey ink, no box, a transparent ground."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.tick_params(colors=INK)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(INK)
