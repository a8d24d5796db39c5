"""A data set is uint8 tensors on the device; augmentation and normalisation work on whole batches there.

`load` gives the training and test images of a known data set or of a folder of images. Values are
checked once, where they enter: nothing later looks at them again.
"""

from .augmentation import Augmentation, augment, network_input, normalize, views_of_epoch
from .images import DataError, ImageSet, Splits
from .places import cache_folder, shipped
from .sources import NORMALIZATION, from_dataset, load

__all__ = [
    "NORMALIZATION",
    "Augmentation",
    "DataError",
    "ImageSet",
    "Splits",
    "augment",
    "cache_folder",
    "from_dataset",
    "load",
    "network_input",
    "normalize",
    "shipped",
    "views_of_epoch",
]
