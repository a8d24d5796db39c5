"""Figures of the course. Each function returns a matplotlib Figure, which `show` puts under a notebook's cell.

Colours come from Okabe and Ito's palette, which colour-blind readers can tell apart, and never carry
a meaning alone: markers, line styles or words go with them. Inks are mid-grey on a transparent
ground, readable on light and dark pages.
"""

from .affinity import assembly_lines, cell_map
from .bars import bars
from .curves import learning_curves, lines, method_panels, table
from .dots import dots
from .images import answers, draw_image, image_grid, pixels
from .intervals import curve_panels, grids, intervals, trends
from .matrices import class_matrix
from .page import COLORS, DPI, HATCHES, INK, LINES, MARKERS, new_figure, png_bytes, quiet, show
from .ranks import staircase
from .reliability import reliability
from .similarity import contrast, similarity_matrices

__all__ = [
    "COLORS", "DPI", "HATCHES", "INK", "LINES", "MARKERS", "answers", "assembly_lines", "bars", "cell_map",
    "class_matrix", "contrast", "curve_panels", "dots", "draw_image", "grids", "image_grid", "intervals",
    "learning_curves", "lines", "method_panels", "new_figure", "pixels", "png_bytes", "quiet", "reliability",
    "show", "similarity_matrices", "staircase", "table", "trends",
]  # fmt: skip
