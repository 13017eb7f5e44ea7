"""What the scripts of DMoE call, a command a file."""
