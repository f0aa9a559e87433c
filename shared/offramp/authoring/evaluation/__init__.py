"""Evaluation of a bundle on labelled images, run as it is served: accuracy, exit rates and cost."""
