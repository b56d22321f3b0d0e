"""Networks by name: ``models.build("ibsr_unet2d")``, ``models.names()``; ``save`` and ``load`` for released models."""

from segkit.models.presets import build, names
from segkit.models.store import load, save, with_dropout_on
from segkit.models.unet import unet

__all__ = ["build", "load", "names", "save", "unet", "with_dropout_on"]
