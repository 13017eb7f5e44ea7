"""The task that all methods share: data, passages, prompts, metrics, evaluation, tables."""
