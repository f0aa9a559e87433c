"""What guards find, and what they cost."""
