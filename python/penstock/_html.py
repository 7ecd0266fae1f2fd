"""Text in HTML, for notebooks."""

from __future__ import annotations


def escape(text: str) -> str:
    """The text as HTML shows it; the tables of `html` are loaded only when something is shown."""
    import html

    return html.escape(text)
