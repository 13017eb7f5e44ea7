"""Training of many experts at the same time, each as if it were alone."""
