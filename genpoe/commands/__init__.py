"""The functions that the scripts of GenPoE call; each command has its own file."""
