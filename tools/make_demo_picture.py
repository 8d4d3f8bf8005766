"""Records `t2l demo` as it prints and writes it as docs/images/demo.svg, the picture in the README.

    python tools/make_demo_picture.py [--seed N] [--count 3] [--out docs/images/demo.svg]

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

from t2l.bases import load_base
from t2l.demo import TITLE
from t2l.demo.measure import Session, kept, representative_seed
from t2l.demo.show import show_demo
from t2l.model import TextToLora

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "demo.svg"
WIDTH = 96  # columns


def picture(seed: int | None, count: int) -> str:
    """The demo as SVG that loads nothing from elsewhere."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), legacy_windows=False)
    t2l = TextToLora.from_pretrained()
    session = Session(t2l, load_base(str(t2l.spec.base_model)).with_system(t2l.system))
    seed = representative_seed(kept(session.t2l, session.base), count) if seed is None else seed
    console.print(TITLE, style="bold cyan")
    show_demo(console, session, seed, count, waiting=Console(stderr=True))
    # rich's own template fetches a font; the viewer's monospace font will do
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    svg = console.export_svg(title="t2l demo", theme=MONOKAI, code_format=template, unique_id="t2l-demo")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="which tasks are shown; as t2l demo by default")
    parser.add_argument("--count", type=int, default=3, help="how many")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the file to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(picture(options.seed, options.count), encoding="utf-8")


if __name__ == "__main__":
    main()
