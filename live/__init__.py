"""Live use: a knowledge session, the server around it, and the page that it serves."""
