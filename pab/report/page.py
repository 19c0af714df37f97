"""A page that needs no other file and no network: a table, pictures, settings."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from jinja2 import Environment


def render_page(
    title: str,
    subtitle: str,
    rows: Iterable[Sequence[str]],
    pictures: Mapping[str, bytes],
    captions: Mapping[str, str],
    texts: Iterable[tuple[str, str]] = (),
    columns: Sequence[str] = (),
) -> str:
    """Write a page of HTML.

    Args:
        title: heading of the page.
        subtitle: one sentence below it.
        rows: of the table, each a sequence of cells.
        pictures: name -> PNG.
        captions: name of a picture -> caption.
        texts: (heading, text), folded away below the pictures.
        columns: headings of the table; none by default.
    """
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        files(__package__).joinpath('page.html.j2').read_text(encoding='utf-8')
    )
    shown = [(base64.b64encode(data).decode(), captions[name]) for name, data in pictures.items()]
    return template.render(
        title=title, subtitle=subtitle, columns=columns, rows=list(rows), pictures=shown, texts=list(texts)
    )
