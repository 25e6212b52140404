"""One HTML page that stands alone: no script, no font and no picture from anywhere else.

Called by the training report and the evaluation.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import PartialSegLib

# Nothing may be loaded, whatever text a page is made of.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #20262e; background: #f4f5f7; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; margin: 0; }
h2 { font-size: 19px; margin: 32px 0 8px; }
.subject, footer { color: #5a6472; }
.row { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
svg, img { background: white; border: 1px solid #dde1e6; border-radius: 6px; max-width: 100%; height: auto; }
figure { margin: 0 0 16px; }
figcaption { color: #5a6472; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: white; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 10px; border: 1px solid #dde1e6; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { background: #eceff3; }
footer { margin-top: 40px; border-top: 1px solid #dde1e6; padding-top: 8px; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Parameters
    ----------
    title : str
        Its heading; none when empty.
    content : str
        Text, or HTML.
    markup : bool
        Whether `content` is HTML; text is escaped.
    """

    title: str
    content: str
    markup: bool = False

    def html(self) -> str:
        """Return its HTML."""
        heading = f"<h2>{escape(self.title)}</h2>" if self.title else ""
        return heading + (self.content if self.markup else f"<p>{escape(self.content)}</p>")


def page(title: str, subject: str, sections: Sequence[Section]) -> str:
    """Return a whole page.

    Parameters
    ----------
    title, subject : str
        Heading, and the line below it.
    sections : sequence of Section
        From top to bottom.
    """
    body = "\n".join(section.html() for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width">\n<title>{escape(title)}: {escape(subject)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        f'<p class="subject">{escape(subject)}</p>\n{body}\n'
        f"<footer>PartialSeg {escape(PartialSegLib.__version__)}. Research software: not a medical device.</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return cells as an HTML table; the first column is text, the others are numbers. The header may be empty."""
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>"] if header else []
    lines += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return '<div class="scroll"><table>' + "\n".join(lines) + "</table></div>"


def row(parts: Sequence[str]) -> str:
    """Return parts side by side, as far as the window is wide."""
    return '<div class="row">' + "\n".join(parts) + "</div>"


def figure(picture: Path, caption: str) -> str:
    """Return a PNG file, within the page, with a caption."""
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    text = escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'
