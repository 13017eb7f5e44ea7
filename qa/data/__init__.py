"""Questions with their passages, and the sources of data sets."""

from __future__ import annotations

from qa.data.dataset import QADataset, Question, load_folder, save_folder
from qa.data.hub import load_named
from qa.data.mixed import load_mixed

__all__ = ["QADataset", "Question", "load_folder", "load_mixed", "load_named", "save_folder"]
