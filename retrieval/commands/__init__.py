"""The commands that the scripts of retrieval call, one in each file."""
