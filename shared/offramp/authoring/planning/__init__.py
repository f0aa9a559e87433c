"""Where to cut a network and what to send, judged on somebody's own photos and link."""
