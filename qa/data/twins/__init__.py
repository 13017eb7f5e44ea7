"""The embedded data sets "twins" and "roles": passages in twos that say the opposite.

Both passages of a pair have the same words, in another order. A function of the bag of words gives
the same answer for both, so it cannot be right about both.
"""

from __future__ import annotations

from qa.data.twins.pairs import Twins, same_words, twins_of
from qa.data.twins.roles import generate_roles
from qa.data.twins.values import generate_twins

__all__ = ["Twins", "generate_roles", "generate_twins", "same_words", "twins_of"]
