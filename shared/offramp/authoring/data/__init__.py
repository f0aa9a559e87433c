"""Labelled images from a disk: in files of any usual layout, and the fixed split of the training part."""

from offramp.authoring.data.labelled import LabelledImages, Part
from offramp.authoring.data.listing import Listing
from offramp.authoring.data.load import load_images, open_data
from offramp.authoring.data.photos import Pixels, batches
from offramp.authoring.data.split import TrainValidation, split_train
from offramp.authoring.data.unlabelled import load_unlabelled

__all__ = [
    "LabelledImages",
    "Listing",
    "Part",
    "Pixels",
    "TrainValidation",
    "batches",
    "load_images",
    "load_unlabelled",
    "open_data",
    "split_train",
]
