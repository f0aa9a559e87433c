"""What more replicas of the cloud node bring, and what a proxy before them costs."""
