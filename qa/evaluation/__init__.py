"""Evaluation of methods and of retrieval, and the run folders that they write."""
