"""The baselines of DMoE's paper: FLARE, PRAG, SFT-LoRA, and experts placed in other layers."""
