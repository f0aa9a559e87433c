"""What the browser shows: one module per tab, and the frame around them."""
