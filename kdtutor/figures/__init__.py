"""Figures of the course. Each function returns a matplotlib Figure, which `show` puts under a notebook's cell.

Colours come from Okabe and Ito's palette, which colour-blind readers can tell apart, and never carry
a meaning alone: markers, line styles or words go with them. Inks are mid-grey on a transparent
ground, readable on light and dark pages.
"""

from .curves import learning_curves, lines, method_panels, table
from .images import answers, draw_image, image_grid, pixels
from .matrices import class_matrix
from .page import COLORS, DPI, HATCHES, INK, LINES, MARKERS, new_figure, png_bytes, quiet, show

__all__ = [
    "COLORS", "DPI", "HATCHES", "INK", "LINES", "MARKERS", "answers", "class_matrix", "draw_image", "image_grid",
    "learning_curves", "lines", "method_panels", "new_figure", "pixels", "png_bytes", "quiet", "show", "table",
]  # fmt: skip
