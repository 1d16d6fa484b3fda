"""What a firm's run needs, imported once by the parent of the lanes."""

from ftm_assets import definitions
from ftm_assets.analysis.communities import warm_up

definitions.defs.get_repository_def()
warm_up()
