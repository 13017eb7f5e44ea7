"""Training of many experts at the same time, with the same result as training each one alone."""
