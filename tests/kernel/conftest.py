"""Fixtures that several modules here use."""

from netns_world import world

__all__ = ["world"]
