"""What people ask: how far a quarter is, the way from a theme down to its sentences and back up, search by meaning.

One door to all of it: what is in the modules below is called as `queries.themes_of_quarter(...)`.
"""

from ftm_assets.storage.queries.hierarchy import (
    SentenceRow,
    ThemeFirmRow,
    ThemeRow,
    TopicRow,
    firms_of_theme,
    sentences,
    sentences_of,
    sentences_of_theme,
    sentences_of_topic,
    themes_of_quarter,
    topics_of_firm,
    topics_of_theme,
    topics_without_theme,
)
from ftm_assets.storage.queries.loaded import CallRow, FirmRow, RejectRow, calls, firms, rejects
from ftm_assets.storage.queries.panels import FirmQuarterRow, FirmThemeRow, firm_profile, firm_themes
from ftm_assets.storage.queries.progress import (
    QuarterDetail,
    QuarterProgress,
    QuarterStatus,
    StageProgress,
    quarter_detail,
    quarter_progress,
    quarter_status,
    quarters_with_calls,
)
from ftm_assets.storage.queries.search import (
    ExactScan,
    Found,
    Hit,
    QuarterEncoder,
    Where,
    encoders_of,
    search,
)

__all__ = [
    "CallRow",
    "ExactScan",
    "FirmQuarterRow",
    "FirmRow",
    "FirmThemeRow",
    "Found",
    "Hit",
    "QuarterDetail",
    "QuarterEncoder",
    "QuarterProgress",
    "QuarterStatus",
    "RejectRow",
    "SentenceRow",
    "StageProgress",
    "ThemeFirmRow",
    "ThemeRow",
    "TopicRow",
    "Where",
    "calls",
    "encoders_of",
    "firm_profile",
    "firm_themes",
    "firms",
    "firms_of_theme",
    "quarter_detail",
    "quarter_progress",
    "quarter_status",
    "quarters_with_calls",
    "rejects",
    "search",
    "sentences",
    "sentences_of",
    "sentences_of_theme",
    "sentences_of_topic",
    "themes_of_quarter",
    "topics_of_firm",
    "topics_of_theme",
    "topics_without_theme",
]
