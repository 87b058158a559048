"""Sphinx extension of the book: keyed execution cache, kernel environment, scripts from our own host.

``book/_tools/build.py`` imports :func:`execution_key` and :func:`kernel_environment` from here, so
that ``make book`` and plain ``jupyter-book build .`` share one cache. No import of Sphinx is needed
for that.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterable
from pathlib import Path

CIRCUITSVIS_ASSET = "vendor/circuitsvis/iife.js"


def digest(root: Path, files: Iterable[Path], *extra: str) -> str:
    """SHA-256 over relative names and contents of ``files`` and the strings ``extra``."""
    total = hashlib.sha256()
    for text in extra:
        total.update(text.encode() + b"\0")
    for path in sorted(files):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def package_files(root: Path) -> list[Path]:
    """Modules and data files of ``ictl_utils``."""
    found = (root / "ictl_utils").rglob("*")
    return [p for p in found if p.is_file() and "__pycache__" not in p.parts and p.name != ".DS_Store"]


def execution_key(root: Path) -> str:
    """Sixteen hex digits that change with everything, but its own text, that a notebook's result depends on.

    These are the package with its data, the lock, and the interpreter, whose standard library is the
    corpus. The notebook's own cells, the preset among them, are compared by jupyter-cache.
    """
    files = package_files(root) + [root / "requirements.lock"]
    return digest(root, files, platform.python_version())[:16]


def cache_path(root: Path) -> Path:
    """Folder of executed notebooks for the present key."""
    return root / "_build" / ".jupyter_cache" / execution_key(root)


def kernel_environment(root: Path) -> dict[str, str]:
    """Variables under which the book's notebooks run: one folder of trained models a key, quiet output."""
    return {
        "ICTL_BOOK": "1",  # ictl_utils.viz: one shared script a page
        "ICTL_RUNS": str(root / "_build" / "ictl_runs" / execution_key(root)),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "TQDM_DISABLE": "1",
    }


def circuitsvis_bundle() -> Path:
    """The browser bundle inside the installed circuitsvis wheel."""
    spec = importlib.util.find_spec("circuitsvis")
    bundle = Path(spec.origin).parent / "dist" / "cdn" / "iife.js" if spec and spec.origin else None
    if bundle is None or not bundle.is_file():
        raise FileNotFoundError(
            "circuitsvis with its browser bundle (dist/cdn/iife.js) is not installed here; run `make setup`."
        )
    return bundle


def configure_execution(app, config) -> None:
    """Point myst-nb at the keyed cache; a new key is a changed setting, so every page is reread."""
    root = Path(app.srcdir)
    config.nb_execution_cache_path = str(cache_path(root))
    os.environ.update(kernel_environment(root))


def page_scripts(app, pagename, templatename, context, doctree) -> None:
    """Drop thebe and scripts registered twice; add circuitsvis where the page draws with it."""
    scripts, seen, kept = context["script_files"], set(), []
    for script in scripts:
        attributes = dict(getattr(script, "attributes", {}))
        name = str(getattr(script, "filename", script) or "")
        identity = (name, tuple(sorted((k, str(v)) for k, v in attributes.items())))
        if identity in seen or "thebe" in name.lower() or "THEBE" in attributes.get("body", ""):
            continue
        seen.add(identity)
        kept.append(script)
    scripts[:] = kept
    if "CircuitsVis.render" in context.get("body", ""):
        app.add_js_file(CIRCUITSVIS_ASSET, defer="defer")


def plain_citations(app, pagename, templatename, context, doctree) -> None:
    """Take the role of a list from the references: their entries are no list items for a screen reader."""
    if "body" in context:
        listed = '<div role="list" class="citation-list">'
        context["body"] = context["body"].replace(listed, listed.replace(' role="list"', ""))


def copy_circuitsvis(app, exception) -> None:
    """Copy the browser bundle beside the pages."""
    if exception is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / CIRCUITSVIS_ASSET
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(circuitsvis_bundle(), target)


def unpack(folder: Path) -> None:
    """Unpack the scripts in ``folder`` that the project keeps compressed."""
    for packed in folder.rglob("*.js.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()


def unpack_scripts(app, exception) -> None:
    """Unpack the scripts of the pages."""
    if exception is None and app.builder.format == "html":
        unpack(Path(app.outdir) / "_static" / "vendor")


def setup(app) -> dict:
    app.connect("config-inited", configure_execution)
    app.connect("html-page-context", page_scripts, priority=900)
    app.connect("html-page-context", plain_citations)
    app.connect("build-finished", copy_circuitsvis)
    app.connect("build-finished", unpack_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
