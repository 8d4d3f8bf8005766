"""Records `t2l demo` as it prints and writes it as docs/images/demo.svg, the picture in the README.

    python tools/make_demo_picture.py [--seed 5] [--out docs/images/demo.svg]

Nothing is staged: the tasks are those of the seed, the milliseconds those of this machine.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI

from t2l.world.demo import demo

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "demo.svg"
WIDTH = 96  # columns


def picture(seed: int) -> str:
    """The demo as SVG that loads nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), legacy_windows=False)
    demo(console, interactive=False, seed=seed)
    # rich's own template fetches a font; the viewer's monospace font will do
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title="t2l demo", theme=MONOKAI, code_format=template, unique_id="t2l-demo")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=5, help="which tasks and inputs are shown")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(picture(options.seed), encoding="utf-8")


if __name__ == "__main__":
    main()
