"""A hook of mkdocs: each notebook becomes a page, with the outputs that it holds and no script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: Any) -> Files:
    """Pages beside the notebooks themselves, which stay to be downloaded."""
    for path in sorted(Path(config["docs_dir"], "notebooks").glob("*.ipynb")):
        place = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, place, content=page(path)))
    return files


def page(path: Path) -> str:
    """The Markdown of a notebook; links between notebooks lead to their pages."""
    notebook = nbformat.read(path, as_version=4)
    parts: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace(".ipynb)", ".md)"))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts += [text for output in cell.outputs for text in _shown(output)]
    parts.append(f"[This notebook]({path.name}), to run it.")
    return "\n\n".join(parts) + "\n"


def _shown(output: Any) -> Iterator[str]:
    data = output.get("data", {})
    if "image/png" in data:
        words = output.metadata.get("image/png", {}).get("alt", "what the cell above shows")
        yield f"![{words}](data:image/png;base64,{data['image/png'].replace(chr(10), '')})"
    elif "text/markdown" in data:
        yield data["text/markdown"]
    else:
        yield f"```text\n{output.get('text', data.get('text/plain', '')).rstrip()}\n```"
