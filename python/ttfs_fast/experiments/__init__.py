"""Studies that docs/ reports: each resumable, with a table as CSV and a plot."""

from ttfs_fast.experiments.depth import DepthStudy, depth_study

__all__ = ["DepthStudy", "depth_study"]
