"""What may happen to a passage that has different experts in two banks that are merged.

Nothing else is imported here, so that the command line knows the choices at once.
"""

from __future__ import annotations

CONFLICTS = ("error", "keep", "replace")
