"""Meta-training of a hypernetwork (GenPoE sec. 3.2.2)."""
