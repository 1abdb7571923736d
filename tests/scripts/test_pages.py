"""README.md and docs/: snippets run, tables say what the data say, links lead somewhere, the reference is complete."""

import importlib
import importlib.util
import json
import pkgutil
import re
from pathlib import Path

import keras
import nbclient
import nbformat
import pytest

import distill
from distill import studies
from tests.little import make_little

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("pages", ROOT / "scripts" / "pages.py")
pages = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(pages)

README = ROOT / "README.md"
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in pages.PAGES}
# The first page of the site shows the ten lines of the README, which are run there.
WITH_SNIPPETS = [name for name, text in TEXTS.items() if pages.snippets(text) and name != "docs/index.md"]


# Tutorials train several networks, and these guides do too. Those of the notebooks run there.
GUIDES = [f"docs/guides/{name}.md" for name in ("export", "prune-channels", "teachers")]
LONG = [name for name in WITH_SNIPPETS if name.startswith("docs/tutorials/") or name in GUIDES]
IN_NOTEBOOKS = {str(page.relative_to(ROOT)) for page in pages.NOTEBOOKS}


@pytest.fixture
def little(monkeypatch):
    make_little(monkeypatch.setattr)


# Keras 3.15 says so at every fit of a data set.
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LONG else ())
        for name in WITH_SNIPPETS
        if name not in IN_NOTEBOOKS
    ],
)
def test_the_snippets_of_a_page_run_in_order(name, tmp_path, monkeypatch, capsys, request):
    if "/tutorials/" in name:
        request.getfixturevalue("little")
    monkeypatch.chdir(tmp_path)
    with pages.as_main() as names:
        for snippet in pages.snippets(TEXTS[name]):
            exec(compile(snippet, name, "exec"), names)
    if name == "README.md":
        assert "val_accuracy" in capsys.readouterr().out
        student = keras.models.load_model(tmp_path / "student.keras")
        assert student.count_params() == 784 * 32 + 32 + 32 * 10 + 10


def test_the_readme_is_one_page_and_its_ten_lines_are_on_the_first_page_of_the_site():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert pages.snippets(TEXTS["docs/index.md"]) == pages.snippets(TEXTS["README.md"])


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if "<!-- end -->" in text])
def test_tables_are_those_of_the_data(name):
    assert pages.filled(TEXTS[name]) == TEXTS[name], "Run scripts/pages."
    altered = re.sub(r"(\| )\d(\d\.\d\d ± )", r"\g<1>0\g<2>", TEXTS[name], count=1)
    assert altered != TEXTS[name] == pages.filled(altered)


@pytest.mark.parametrize("path", sorted(pages.STUDIES.glob("*.json")), ids=lambda path: path.name)
def test_pictures_are_those_of_the_data(path):
    """By what they say: where lines and letters stand depends on the version of what draws them."""
    for name, picture in pages.pictures(path).items():
        kept = (pages.STUDIES / name).read_text(encoding="utf-8")
        assert said(kept) == said(picture), "Run scripts/pages."


def said(picture):
    return re.findall(r'<text[^>]*>[^<]+|aria-label="[^"]+"', re.sub(r'transform="[^"]+"', "", picture))


def test_what_a_snippet_prints_and_draws_is_put_on_its_page(tmp_path):
    quiet = "```python\nfrom pathlib import Path\n\nx = 1\nprint(x)\n```\n\nWords.\n\n"
    printing = "```python\nprint(x + 1)\n```\n\n```text\n{}\n```\n\n"
    picture = "<svg><rect fill='{}'/><g stroke='{}'/></svg>"
    drawn = f'Path("drawn.svg").write_text("{picture.format("#ffffff", "#000000")}")'
    drawing = f"```python\n{drawn}\n```\n\n![It](pictures/drawn.svg)\n"
    page = tmp_path / "page.md"
    page.write_text(quiet + printing.format("old") + drawing)
    assert pages.printed(page) == quiet + printing.format(2) + drawing
    kept = picture.format("none", "currentColor").replace("<svg>", f"<svg>{pages._COLORS}") + "\n"
    assert (tmp_path / "pictures" / "drawn.svg").read_text() == kept


@pytest.mark.parametrize("page", pages.NOTEBOOKS, ids=lambda page: page.stem)
def test_a_notebook_is_its_page(page):
    kept = page.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert kept == pages.notebook(page.read_text(encoding="utf-8")), "Run scripts/pages."
    nbformat.validate(nbformat.reads(kept, 4))
    cells = json.loads(kept)["cells"]
    assert [one["source"] + "\n" for one in cells if one["cell_type"] == "code"] == pages.snippets(
        page.read_text()
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page.stem in ("prune", "phone") else ())
        for page in pages.NOTEBOOKS
    ],
    ids=lambda page: page.stem,
)
def test_a_notebook_runs_in_a_kernel(page, tmp_path):
    """With little to do."""
    smoke = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.little import make_little; make_little()"
    )
    notebook = nbformat.reads(page.with_suffix(".ipynb").read_text(encoding="utf-8"), 4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(smoke))
    resources = {"metadata": {"path": str(tmp_path)}}
    done = nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printing = [cell for cell in done.cells if re.search(r"^print\(", cell.source, flags=re.MULTILINE)]
    assert len(printing) > 1
    for cell in printing:
        assert any(output.get("name") == "stdout" for output in cell.outputs), cell.source
    text = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"\(pictures/([\w-]+\.svg)\)", text))
    assert {path.name for path in tmp_path.glob("*.svg")} == shown


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files(name):
    text = re.sub(r"```.*?```|`[^`]*`", "", TEXTS[name], flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert link.startswith("https://") or (ROOT / name).parent.joinpath(link).exists(), link


def test_commands_that_pages_name_exist():
    commands = {
        found for text in TEXTS.values() for found in re.findall(r"\bscripts/[\w/-]*\w(?!\.|\w)", text)
    }
    assert {"scripts/compare", "scripts/test", "scripts/docs"} <= commands
    assert not [name for name in commands if not (ROOT / name).stat().st_mode & 0o111]


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2])
    assert sorted(listed) == sorted(name.removeprefix("docs/") for name in TEXTS if name != "README.md")


def test_the_reference_has_a_page_for_every_room_and_a_line_for_every_name():
    names = [one.name for one in pkgutil.walk_packages(distill.__path__, "distill.") if "._" not in one.name]
    public = {name for name in names if hasattr(importlib.import_module(name), "__all__")}
    parts = {f"distill.studies.{name}" for name in studies.__all__ if is_module(getattr(studies, name))}
    shown = {one for text in TEXTS.values() for one in re.findall(r"^::: (\S+)", text, flags=re.MULTILINE)}
    assert shown == public | parts
    for name in ("distill", "distill.pruning"):  # whose names are those of their rooms
        text = TEXTS[f"docs/api/{name}.md"]
        assert not [
            one for one in importlib.import_module(name).__all__ if not re.search(rf"\b{one}\b", text)
        ]


def is_module(one):
    return isinstance(one, type(studies))
