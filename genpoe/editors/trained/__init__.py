"""Editors whose updates are made by a network that is trained on other edits: MEND and MALMEN."""
