"""Fixtures that several modules here use."""

from bgp_world import segment
from netns_world import world

__all__ = ["segment", "world"]
