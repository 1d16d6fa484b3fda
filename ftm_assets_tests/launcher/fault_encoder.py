"""An encoder that obeys orders, notes each time its model is loaded, and cannot be loaded while a file says so."""

import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ftm_assets_tests.fakes import HashEncoder
from ftm_assets_tests.launcher.faults import folder, obey


class ObedientEncoder:
    name = "hash"

    @cached_property
    def revision(self) -> str:
        if (folder() / "no model").exists():
            raise RuntimeError("out of memory on the device")
        with (folder() / "loads").open("a") as loads:
            loads.write(f"{os.getpid()}\n")
        return "1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        obey(texts[:1], "encoder")
        return HashEncoder(revision=self.revision).encode(texts)


encoder = ObedientEncoder()
