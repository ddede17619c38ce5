"""`composer schema`: the JSON Schema of specs and spaces, for editors."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Specs"
EXAMPLE = "composer schema --out specs/composer.schema.json"


def schema(
    out: Annotated[
        str | None, typer.Option("--out", metavar="FILE", help="Write it to a file instead of printing it.")
    ] = None,
) -> None:
    """Print the JSON Schema that lets an editor complete and check specs and spaces.

    It knows the blocks and tasks that are installed. An editor finds it by the first line of a spec:
    `# yaml-language-server: $schema=composer.schema.json`
    """
    from composer.language.description.json_schema import schema_text

    text = schema_text()
    if out is None:
        print(text, end="")
        return
    from composer.cli.terminal.files import write

    write(out, text)
