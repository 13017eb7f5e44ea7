"""What the scripts of retrieval call, a command a file."""
