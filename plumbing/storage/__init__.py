"""Files and folders that a reader finds whole or not at all, and checksums that prove it."""
