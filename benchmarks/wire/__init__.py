"""What an offloaded sample costs in bytes, against sending the photo, and what it costs in accuracy."""
