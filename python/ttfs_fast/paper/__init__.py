"""The paper's tables and figures, computed anew and set beside the printed ones.

`reproduce` does what is not done yet and writes the report; docs/reproduction.md describes it.
"""

from ttfs_fast.paper.plan import Plan
from ttfs_fast.paper.run import PARTS, reproduce
from ttfs_fast.paper.subjects import Found, Subject, find_subjects

__all__ = ["PARTS", "Found", "Plan", "Subject", "find_subjects", "reproduce"]
