"""What is sent and how long it takes: as told, and as it is on a real socket with a real link."""
