"""Little data, few steps, and studies that only check that they run: pages show what came out of all of it."""

import functools

import keras

from distill import data, studies


def make_little(replace=setattr):
    """Replaces what pages train with and on, by `setattr` or by that of a monkeypatch, which takes it back."""
    arrays, load_text, run = data.arrays, data.load_text, studies.Study.run
    compile_, fit, ask = keras.Model.compile, keras.Model.fit, keras.Model.predict_on_batch
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
        small = {"batch_size": min(kwargs["batch_size"], 8)} if "batch_size" in kwargs else {}
        return fit(*args, **{**kwargs, **few, **small})

    def ask_often(model, x):  # so often that compiling takes less
        if model.run_eagerly:
            model.run_eagerly, model.predict_function = False, None
        return ask(model, x)

    replace(keras.Model, "compile", little_compile)
    replace(keras.Model, "fit", little_fit)
    replace(keras.Model, "predict_on_batch", ask_often)
    replace(data, "arrays", lambda split: tuple(part[:160] for part in arrays(split)))
    replace(data, "load_text", little_text)
    replace(studies.Study, "run", functools.partialmethod(run, smoke=True))
