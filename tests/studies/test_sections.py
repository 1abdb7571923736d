"""Sections that a study adds to its report."""

from matplotlib.figure import Figure

from distill import studies
from distill.studies import report, tables
from tests.studies.tiny import TAUGHT, run, study_of


def accuracy_and_size(found):
    """Accuracy <and> size.

    More that no heading needs.
    """
    figure = Figure()
    axes = figure.subplots()
    for arm in found.arms:
        axes.plot(arm.cells[0].cost["parameters"], arm.values(studies.ACCURACY)[0], "o", label=arm.name)
    axes.set_title("All of one size")
    yield figure
    yield tables.Grid("Accuracies", ("arm", "%"), tuple((arm.name, "many & more") for arm in found.arms))
    yield "Fewer < more."


def nothing(found):
    """Nothing to see."""
    return []


def test_sections_show_pictures_tables_and_sentences(here, tmp_path, capsys):
    study = study_of(*TAUGHT)
    seen = []

    def failing(found):
        seen.append(found)
        yield "So far."
        yield found.arm("nobody")

    def unknown(found):
        yield {"a": "dictionary"}

    for section in (accuracy_and_size, nothing, failing, unknown):
        assert study.section(section) is section
    found = run(study, tmp_path)
    assert seen == [found]
    page = (tmp_path / "tiny" / "report.html").read_text()
    first = page.index("<h3>Accuracy &lt;and&gt; size</h3>")
    own = page[first : page.index("</section>", first)]
    assert own.count("<svg") == own.count("<table") == 1
    assert 'aria-label="Accuracy &lt;and&gt; size"' in own
    assert "accuracy_and_size-0-" in own  # ids of several figures are apart
    assert "Accuracies" in own
    assert own.count("many &amp; more") == len(found.arms) == 2
    assert "<p>Fewer &lt; more.</p>" in own
    assert "Nothing to see" not in page
    # Whatever fails costs the rest nothing, and says so.
    assert '<h3>Failing</h3>\n<p>So far.</p>\n<p class="warning">Failed: ValueError' in own
    assert "Received: &#x27;nobody&#x27;; there are teacher, taught." in own
    assert '<h3>Unknown</h3>\n<p class="warning">Failed: TypeError' in own
    assert "Received: dict. A single one needs yield" in own
    assert "Traceback" in capsys.readouterr().err
    # The report is made again from the directory alone.
    (tmp_path / "tiny" / "report.html").unlink()
    report.write(tmp_path / "tiny")
    assert own in (tmp_path / "tiny" / "report.html").read_text()
