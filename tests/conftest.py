"""For every layer: property tests have no deadline of their own, since a loaded machine says nothing about the code."""

from hypothesis import settings

settings.register_profile("podroute", deadline=None)
settings.load_profile("podroute")
