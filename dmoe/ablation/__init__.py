"""Parts of the ablations of DMoE's paper: the key that names a result, and the report."""
