"""The stages of a firm-quarter. Whatever writes, reads, deletes or counts stages goes through STAGES.

A new stage has modules of its own: its value (`analysis/x.py`), its rows (`storage/stages/x.py`) and its asset
(`assets/x.py`). Besides, it touches these five files:

1. `storage/schema/tables.py`: its tables.
2. `storage/server/migrations/versions/`: the next migration creates them, and replaces the view `firm_status`.
3. `storage/stages/__init__.py`: its place in STAGES.
4. `definitions.py`: its asset.
5. `dagster.yaml`: its asset among those that the GPU worker runs.
"""

from typing import Any

from ftm_assets.storage.stages.base import FirmStage
from ftm_assets.storage.stages.sentences import SENTENCES
from ftm_assets.storage.stages.summaries import SUMMARIES
from ftm_assets.storage.stages.topics import TOPICS

__all__ = ["SENTENCES", "STAGES", "SUMMARIES", "THEME_INPUT", "TOPICS", "derived_from", "find_stage"]

# A stage comes after the one that it is built from. Decision 114.
STAGES: tuple[FirmStage[Any], ...] = (SENTENCES, TOPICS, SUMMARIES)
# What themes are made from.
THEME_INPUT = SUMMARIES


def find_stage(value_type: object) -> FirmStage[Any] | None:
    """The stage that holds values of a type; None if no stage does."""
    return next((stage for stage in STAGES if stage.value_type is value_type), None)


def derived_from(name: str) -> tuple[FirmStage[Any], ...]:
    """The stages that are built from a stage, or from one built from it, in order."""
    names = {name}
    for stage in STAGES:
        if stage.built_from in names:
            names.add(stage.name)
    return tuple(stage for stage in STAGES if stage.name in names - {name})
