"""What the scripts of the task call, a command a file."""
