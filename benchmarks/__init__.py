"""Speed, ours and the peers', interleaved. Nothing imports it, and the wheel leaves it out."""
