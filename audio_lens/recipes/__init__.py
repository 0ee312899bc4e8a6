"""Recipes: the concepts that ship, and what is done with them."""
