"""What the browser shows: one module a tab, and the frame around them."""
