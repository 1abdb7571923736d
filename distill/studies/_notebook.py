"""A study as a notebook shows it: verdicts, the picture of scores and costs, and the tables."""

from distill.studies._grids import for_html
from distill.studies._judging import judge
from distill.studies._page import escaped, opening, small
from distill.studies._report import answer
from distill.studies._results import StudyResult
from distill.studies._summary import cautions, power
from distill.studies._tables import comparisons, costs, scores
from distill.studies._trade import pareto


def html(study: StudyResult) -> str:
    """A finished study as HTML without scripts and styles, in the colours of the notebook."""
    grids = [scores(study), costs(study), *([comparisons(study)] if study.comparisons else [])]
    return "\n".join(
        [
            *opening(study, cautions(study)),
            *answer(judge(study)),
            *map(small, power(study)),
            *(
                f"<figure>{one.svg}<figcaption>{escaped(one.caption)}</figcaption></figure>"
                for one in pareto(study)[:1]
            ),
            *map(for_html, grids),
        ]
    )


StudyResult._shown = staticmethod(html)
