"""MkDocs hook: adds README.md and the nodes' help pages to the site, and rewrites links between them."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
FRONT_PAGE = "index.md"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)")


def repository_path(uri: str) -> str:
    """Returns where a page of the site lies in the repository."""
    if uri == FRONT_PAGE:
        return "README.md"
    if uri.startswith("nodes/"):
        return f"web/docs/{posixpath.basename(uri)}"
    return f"docs/{uri}"


def site_path(path: str) -> str | None:
    """Returns where a file of the repository lies on the site, or None if it is not on it."""
    if path == "README.md":
        return FRONT_PAGE
    folder, name = posixpath.split(path)
    if folder == "web/docs":
        return f"nodes/{name}"
    if folder == "workflows" and name.endswith(".jpg"):
        return path
    return path.removeprefix("docs/") if path.startswith("docs/") else None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/."""
    for pattern in ("README.md", "web/docs/*.md", "web/docs/*.jpg", "workflows/*.jpg"):
        for source in sorted(REPOSITORY.glob(pattern)):
            target = site_path(source.relative_to(REPOSITORY).as_posix())
            files.append(File.generated(config, str(target), abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrites relative links, which are those of the repository, to those of the site."""
    here = page.file.src_uri

    def rewrite(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(here)), match[1]))
        target = site_path(path)
        if target is None and (REPOSITORY / path).exists():
            return f"{config.repo_url}/blob/main/{path}"
        return posixpath.relpath(target, posixpath.dirname(here) or ".") if target else match[1]

    return LINK.sub(rewrite, markdown)
