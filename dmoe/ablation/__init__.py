"""The ablations of DMoE's paper: the key of a result, and the report."""
