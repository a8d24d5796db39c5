"""Explorers: pictures in a notebook that follow sliders, by mouse or keyboard.

    TemperatureExplorer(data, teacher_logits)      as the last line of a cell

Each is a column of controls, a picture, its main numbers as text, and a question to answer with it.
Where widgets cannot run (on the web, or before a notebook is run) a still picture stands in its place.
"""

from .affinity import AffinityExplorer
from .explorer import Explorer
from .landmarks import LandmarkExplorer
from .landscape import LandscapeExplorer
from .mixup import MixupExplorer, answers_on_lines
from .ranks import RanksExplorer
from .seeds import SeedsExplorer
from .similarity import SimilarityExplorer
from .temperature import TemperatureExplorer

__all__ = [
    "AffinityExplorer",
    "Explorer",
    "LandmarkExplorer",
    "LandscapeExplorer",
    "MixupExplorer",
    "RanksExplorer",
    "SeedsExplorer",
    "SimilarityExplorer",
    "TemperatureExplorer",
    "answers_on_lines",
]
