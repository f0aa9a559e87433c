"""What more replicas of the cloud node gain, and what a proxy in front of them costs."""
