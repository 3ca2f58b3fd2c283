"""Recipes: one short script a task, each to be run with `python -m recipes.<name>`."""
