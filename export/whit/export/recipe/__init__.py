"""Recipes: a chain of compression steps in a TOML file, run once each and measured.

``parse`` reads the file, ``steps`` knows the steps, ``run`` runs them, ``measure`` says what each did, ``page`` draws it.
"""

from whit.export.recipe.parse import Recipe, RecipeError, read_recipe
from whit.export.recipe.run import RecipeReport, run_recipe

__all__ = ["Recipe", "RecipeError", "RecipeReport", "read_recipe", "run_recipe"]
