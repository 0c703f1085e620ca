"""How the command line prints: tables for people, JSON for programs. Used by every command."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table

Output = Annotated[Literal["table", "json"], typer.Option("-o", "--output", help="table or json.")]

# Words that tell good from bad wherever they stand in a table.
_COLOURS = {"True": "green", "established": "green", "False": "red", "Unknown": "yellow", "refused": "red"}


def print_value(value: Any) -> None:
    """The value as indented JSON."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=1).decode() + "\n")


def print_rows(title: str, rows: Sequence[msgspec.Struct]) -> None:
    """One line a row; the columns are the fields of the rows. Piped output is not cut."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    if not rows:
        console.print(f"{title}: none")
        return
    names = rows[0].__struct_fields__
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name.replace("_", " ").upper(), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(getattr(row, name)) for name in names))
    console.print(table)


def said(text: str) -> None:
    """One line for a person."""
    Console(highlight=False).print(text, markup=False)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        value = str(value)
    text = "\n".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    colour = _COLOURS.get(text)
    escaped = text.replace("[", "\\[")
    return f"[{colour}]{escaped}[/{colour}]" if colour else escaped
