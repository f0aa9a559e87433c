"""Several labels and a quantity, each as one real task from photos to two nodes."""
