"""``t2l train ...`` and ``t2l recipes ...``: from a recipe to a trained checkpoint.

Level 6. Thin wrappers: `t2l.training` does the work; this file knows options, and which verb trains what.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2l.commands.options import AsJson, Force
from t2l.commands.terminal import print_json, results, say

train = typer.Typer(
    name="train",
    help="Train a hypernetwork, a library of adapters, or one LoRA, from a recipe.",
    no_args_is_help=True,
)
recipes = typer.Typer(name="recipes", help="The recipes that ship with t2l.", no_args_is_help=True)


@recipes.command("ls")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes, a line each."""
    from t2l.training.recipes import load_recipe, recipe_names

    found = {name: load_recipe(name).about for name in recipe_names()}
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, about in found.items():
        say(f"{name:<{width}}  {about}", console=results())


@recipes.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The recipe's name, or a file.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to it.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Every value, defaults included.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a recipe."""
    from t2l.training.recipes import load_recipe, recipe_names, recipe_text

    recipe = load_recipe(name, overrides or [])
    if as_json:
        print_json(recipe.to_dict())
    elif full or overrides or name not in recipe_names():
        say(recipe.to_yaml().rstrip(), console=results())
    else:
        say(recipe_text(name).rstrip(), console=results())


@recipes.command("copy")
def copy(
    name: Annotated[str, typer.Argument(help="The recipe's name.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes, such as mine.yaml.")],
    force: Force = False,
) -> None:
    """Copy a recipe to a file of your own, to change it there."""
    from t2l.storage import check_file, write_bytes
    from t2l.training.recipes import recipe_text

    text = recipe_text(name)
    check_file(out, force=force)
    write_bytes(out, text.encode())
    say(f"{out}: train with it: t2l train sft {out} data.store=STORE", console=results())
