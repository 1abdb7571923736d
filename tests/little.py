"""Little data, few steps, and studies that only check that they run: pages show what came out of all of it."""

import functools

import keras

from distill import data, studies


def make_little(replace=setattr):
    """Replaces what pages train with and on, by `setattr` or by that of a monkeypatch, which takes it back."""
    arrays, load_text, run = data.arrays, data.load_text, studies.Study.run
    compile_, fit = keras.Model.compile, keras.Model.fit
    few, plain = (
        {"epochs": 1, "steps_per_epoch": 2},
        {"run_eagerly": True},
    )  # so few that compiling them takes longer

    def little_text(name="kjv"):
        text = load_text(name)
        return data.Texts(name, text.train[:90_000], text.dev[:3000], text.test[:3000])

    def little_compile(*args, **kwargs):
        compile_(*args, **{**kwargs, **plain})

    @functools.wraps(fit)  # a Distiller reads its signature
    def little_fit(*args, **kwargs):
        return fit(*args, **{**kwargs, **few})

    replace(keras.Model, "compile", little_compile)
    replace(keras.Model, "fit", little_fit)
    replace(data, "arrays", lambda split: tuple(part[:160] for part in arrays(split)))
    replace(data, "load_text", little_text)
    replace(studies.Study, "run", functools.partialmethod(run, smoke=True))
