"""How the page looks: Gradio's variables in our colours, system fonts, and the style of the cards.

Level 6. Nothing is fetched from elsewhere: the fonts are those that the visitor's system has.
"""

from __future__ import annotations

from importlib import resources

from gradio.themes import Base
from gradio.themes.utils import colors, sizes

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-2 -10 48 48" fill="#0f766e">'
    '<rect width="11" height="28" rx="2.5"/><rect x="16" width="28" height="11" rx="2.5"/>'
    '<rect x="16" y="14" width="28" height="14" rx="2.5" opacity=".3"/></svg>'
)
"""Two thin matrices and the square they make: the page's icon."""

_MARGINS = (
    ".gradio-container{padding:20px 20px 48px!important}"
    "@media(max-width:640px){.gradio-container{padding:0!important}"
    ".gradio-container>.main{padding:12px 14px 28px!important}}"
)


def theme() -> Base:
    """Gradio's theme object."""
    return Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_md,
        text_size=sizes.text_md,
        font=["sans-serif"],
        font_mono=["monospace"],
    ).set(
        block_radius="12px",
        container_radius="12px",
        input_radius="8px",
        button_large_radius="8px",
        button_medium_radius="8px",
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0b1120",
        block_background_fill="white",
        block_background_fill_dark="#111a2e",
        block_border_color="*neutral_200",
        block_border_color_dark="#22304a",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_400",
        block_shadow="0 1px 2px rgb(15 23 42 / 5%)",
        block_shadow_dark="none",
        input_background_fill="white",
        input_background_fill_dark="#0d1526",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="#16213a",
        button_secondary_border_color="*neutral_200",
        button_secondary_border_color_dark="#22304a",
        color_accent="#0f766e",
        slider_color="*primary_700",
        slider_color_dark="*primary_400",
    )


def css() -> str:
    """The style sheet of the cards."""
    return (resources.files("t2l.workbench") / "page.css").read_text(encoding="utf-8")


def head() -> str:
    """The page's own script, inline, and its margins: Gradio rewrites the selectors of a style sheet, but not these."""
    script = (resources.files("t2l.workbench") / "page.js").read_text(encoding="utf-8")
    return f"<style>{_MARGINS}</style><script>{script}</script>"
