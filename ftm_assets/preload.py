"""Imports what a firm's run needs; the warm parent loads this module once before it forks lanes."""

from ftm_assets import definitions
from ftm_assets.analysis.communities import warm_up

definitions.defs.get_repository_def()
warm_up()
