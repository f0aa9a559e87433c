"""From images and a network to a bundle: data, networks, training, selection, evaluation, export. torch lives here."""
