"""The commands behind DMoE's scripts, one file for each command."""
