"""segkit: five published segmentation studies done again in Keras, scored as reported, legacy and corrected.

Nothing heavy is imported here; import what you need, for example ``from segkit import volumes, metrics`` or
``from segkit.studies import ibsr``.
"""

__version__ = "0.1.0"
