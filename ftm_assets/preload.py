"""Imported once by the parent of the lanes: what a firm's run needs."""

from ftm_assets import definitions
from ftm_assets.analysis.communities import warm_up

definitions.defs.get_repository_def()
warm_up()
