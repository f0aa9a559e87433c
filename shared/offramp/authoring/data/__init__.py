"""Labelled images from a disk: IDX files and image folders, and the fixed split of the training part."""

from offramp.authoring.data.labelled import LabelledImages, Part
from offramp.authoring.data.load import load_images
from offramp.authoring.data.split import TrainValidation, split_train
from offramp.authoring.data.unlabelled import load_unlabelled

__all__ = ["LabelledImages", "Part", "TrainValidation", "load_images", "load_unlabelled", "split_train"]
