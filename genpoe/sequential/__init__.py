"""Sequential editing: edits that add up, what is still known after each batch, and a journal."""
