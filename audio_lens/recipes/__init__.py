"""Recipes: the concepts that ship, your own, and the study that all of them get."""

from audio_lens.recipes.concept import Concept, concept, tempo, timbre

__all__ = ["Concept", "concept", "tempo", "timbre"]
