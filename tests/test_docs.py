"""The documentation says what is so: links lead somewhere, commands and flags exist, files are valid, and it builds."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

import penstock

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benches/*.md", "examples/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> Iterator[tuple[str, str]]:
    """Every block of code in these languages, with where it stands."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            indent, language, body = found.groups()
            if language in languages:
                line = text.count("\n", 0, found.start()) + 1
                yield f"{page.relative_to(ROOT)}:{line}", re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `penstock …` that a page tells people to type."""
    for where, body in blocks("sh", "console"):
        for line in body.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|(?!\|)", line.removeprefix("$ ")):
                words = shlex.split(part, comments=True)
                if words[:1] == ["penstock"]:
                    yield f"{where}: {part.strip()}", words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{target} in {page.relative_to(ROOT)}"


def measured() -> Iterator[tuple[str, str, str]]:
    """Every place of a page that shows a table of what was measured: where, which file, and what stands there."""
    for page in PAGES:
        for name, shown in re.findall(
            r"<!-- benches/out/(\w+)\.md -->\n(.*?)<!-- end -->", page.read_text(), re.DOTALL
        ):
            if name != "plot":
                yield str(page.relative_to(ROOT)), name, shown


@pytest.mark.parametrize(("page", "name", "shown"), [*measured()], ids=lambda value: value[:30])
def test_tables_are_those_that_are_measured(page: str, name: str, shown: str) -> None:
    """`benches/pages.py` writes them; a header that is another's, or a table filled by hand, is found here."""
    source = next(ROOT.glob(f"benches/**/{'run' if name == 'compare' else name}.py"))
    tree = ast.parse(source.read_text())
    headers = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["HEADER"]
    ]
    assert len(headers) == 1, source
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert rows[:1] == [f"| {' | '.join(headers[0])} |"], f"{page}: run `python benches/pages.py`"
    assert {row.count("|") for row in rows} == {len(headers[0]) + 1}
    assert len(rows) > 2


def test_commands_and_flags_exist() -> None:
    import typer.main

    from penstock.cli import app

    root = typer.main.get_command(app)
    seen = 0
    for where, words in commands():
        command, rest = root, words
        while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
            assert rest[0] in command.commands, f"there is no command '{rest[0]}': {where}"
            command, rest = command.commands[rest[0]], rest[1:]
        known = {"--help", *(option for p in command.params for option in (*p.opts, *p.secondary_opts))}
        for word in rest:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{word} is no flag: {where}"
        seen += 1
    assert seen > 20


def test_contracts_and_pipelines_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole files only; pages show fragments too."""
    contracts = pipelines = 0
    for where, body in blocks("yaml"):
        document = yaml.safe_load(body)
        if not isinstance(document, dict):
            continue
        if {"roles", "events"} <= document.keys() and "schemas/" not in body:
            assert penstock.Contract.load(document).name, where
            contracts += 1
        if {"name", "source", "lake", "contract"} <= document.keys():
            (tmp_path / "pipeline.yaml").write_text(body)
            for name in re.findall(r"\$\{(\w+)\}", body):
                monkeypatch.setenv(name, "given")
            assert penstock.Pipeline.load(str(tmp_path / "pipeline.yaml")).name == document["name"], where
            pipelines += 1
    assert contracts
    assert pipelines


def test_python_parses() -> None:
    for where, body in blocks("python"):
        ast.parse(body, filename=where)


def test_every_code_is_documented_in_order() -> None:
    source = (ROOT / "src/verdict.rs").read_text()
    codes = re.findall(r'=> "([a-z_]+)",', source)
    page = (ROOT / "docs/reference/codes.md").read_text()
    assert re.findall(r"^\| `([a-z_]+)` \|", page, flags=re.MULTILINE) == codes


def test_every_public_name_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/api.md").read_text()
    documented = set(re.findall(r"^::: penstock\.(\w+)", page, flags=re.MULTILINE))
    errors = {name for name in penstock.__all__ if name.endswith("Error")}
    assert set(penstock.__all__) - errors - {"__version__"} <= documented


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="NOT CHECKED: mkdocs is not installed")
    pytest.importorskip("mkdocstrings", reason="NOT CHECKED: mkdocstrings is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "api" / "index.html").exists()
