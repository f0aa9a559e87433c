"""What a bundle is worth: accuracy, exit rates and cost on labelled images, as it is served."""
