"""What the scripts of GenPoE call, a command a file."""
