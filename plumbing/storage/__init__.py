"""Files and folders that are whole or not there, and what tells that they are."""
