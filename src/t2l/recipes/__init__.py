"""Recipes: the settings of a training run, as YAML files of this folder, their sections, and what reads them."""
