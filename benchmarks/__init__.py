"""Measurements of our speed beside a peer's. Nothing imports it, and it is not in the wheel."""
