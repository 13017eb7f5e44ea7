"""Contrastive fine-tuning of rerankers (GenPoE eq. 8)."""
