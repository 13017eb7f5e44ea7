"""An OpenAI-style server over a knowledge session."""
