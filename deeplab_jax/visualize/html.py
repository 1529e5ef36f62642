"""Self-contained HTML: pictures and plots are inside the file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
  from matplotlib.figure import Figure

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 1180px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem;
  border-bottom: 1px solid #ddd; }
p { margin: .3rem 0; color: #555; }
.cards { display: grid; gap: .7rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
.card { border: 1px solid #ddd; border-radius: 6px; padding: .5rem .9rem; }
.card b { display: block; font-size: 1.35rem; font-weight: 600; }
.card span { display: block; color: #555; font-size: .85rem;
  line-height: 1.25; }
.columns { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: start; }
.columns div { flex: 1 1 480px; min-width: 0; }
.columns img { width: 100%; max-width: 640px; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; font-size: .85rem;
  margin-bottom: .8rem; }
.legend i { display: inline-block; width: .8rem; height: .8rem;
  margin-right: .3rem; border: 1px solid #999; vertical-align: -.1rem; }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: .4rem;
  margin-bottom: 1rem; align-items: start; }
.row h3 { grid-column: 1 / -1; font-size: .9rem; font-weight: 600;
  margin: .4rem 0 0; }
.row img { width: 100%; max-height: 300px; object-fit: contain;
  object-position: left top; }
figure { margin: 0; }
figcaption { color: #555; font-size: .8rem; }
"""


def page(title: str, subtitle: str, sections: Mapping[str, str]) -> str:
  """A whole page.

  Args:
    title: plain text.
    subtitle: plain text.
    sections: heading (plain text, "" for none) -> HTML.
  """
  body = [f"<h1>{escape(title)}</h1><p>{escape(subtitle)}</p>"]
  for heading, content in sections.items():
    body.append(f"<h2>{escape(heading)}</h2>" if heading else "")
    body.append(content)
  return (
    '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
    f"<body>{''.join(body)}</body></html>\n"
  )


def escape(text: str) -> str:
  """`text` so that a browser shows it as it is."""
  return html.escape(str(text))


def cards(figures: Mapping[str, str]) -> str:
  """Short figures side by side: what -> value."""
  boxes = [
    f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
    for name, value in figures.items()
  ]
  return f'<div class="cards">{"".join(boxes)}</div>'


def columns(*contents: str) -> str:
  """Pieces of HTML side by side where there is room."""
  pieces = "".join(f"<div>{content}</div>" for content in contents)
  return f'<div class="columns">{pieces}</div>'


def legend(colors: Mapping[str, tuple[int, int, int]]) -> str:
  """Names beside patches of their colours."""
  entries = [
    f'<span><i style="background: rgb{tuple(color)}"></i>{escape(name)}</span>'
    for name, color in colors.items()
  ]
  return f'<div class="legend">{"".join(entries)}</div>'


def table(lines: Sequence[Sequence[str]]) -> str:
  """Lines of cells, the first being headings."""
  head, *others = lines
  cells = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
  cells += ["".join(f"<td>{escape(c)}</td>" for c in line) for line in others]
  body = "".join(f"<tr>{line}</tr>" for line in cells)
  return f'<table cellpadding="6">{body}</table>'


def row(heading: str, pictures: Mapping[str, str]) -> str:
  """Pictures in a row below a heading: caption -> image tag."""
  cells = "".join(
    f"<figure>{tag}<figcaption>{escape(caption)}</figcaption></figure>"
    for caption, tag in pictures.items()
  )
  return f'<div class="row"><h3>{escape(heading)}</h3>{cells}</div>'


def plot(figure: Figure) -> str:
  """An image tag of a matplotlib figure."""
  stream = io.BytesIO()
  figure.savefig(stream, format="png", dpi=110)
  return _tag("png", stream.getvalue(), "plot")


def photo(image: np.ndarray, name: str = "") -> str:
  """An image tag of uint8 RGB (h, w, 3), compressed as JPEG."""
  return _tag("jpeg", _encode(image, "JPEG", quality=85), name)


def drawing(image: np.ndarray, name: str = "") -> str:
  """An image tag of uint8 RGB (h, w, 3) in few colours, exact."""
  return _tag("png", _encode(image, "PNG"), name)


def _encode(image, kind, **options) -> bytes:
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, kind, **options)
  return stream.getvalue()


def _tag(kind: str, content: bytes, name: str) -> str:
  data = base64.b64encode(content).decode()
  return f'<img alt="{escape(name)}" src="data:image/{kind};base64,{data}">'
