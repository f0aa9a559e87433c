"""Which network is trained on which images, and how; ours, a user's, or one on disk."""
