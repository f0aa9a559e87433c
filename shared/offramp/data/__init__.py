"""Labelled images from a disk: IDX files and image folders, and the fixed split of the training part."""

from offramp.data.labelled import LabelledImages, Part
from offramp.data.load import load_images
from offramp.data.split import TrainValidation, split_train
from offramp.data.unlabelled import load_unlabelled

__all__ = ["LabelledImages", "Part", "TrainValidation", "load_images", "load_unlabelled", "split_train"]
