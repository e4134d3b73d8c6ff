"""Studies that docs/ reports: each resumable, with a table as CSV."""

from ttfs_fast.paper.studies.depth import DepthStudy, depth_study
from ttfs_fast.paper.studies.settings import SettingsStudy, settings_study
from ttfs_fast.paper.studies.silence import SilenceStudy, silence_study
from ttfs_fast.paper.studies.start import start_study

__all__ = [
    "DepthStudy",
    "SettingsStudy",
    "SilenceStudy",
    "depth_study",
    "settings_study",
    "silence_study",
    "start_study",
]
