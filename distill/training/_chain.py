"""Networks that are trained in turn, each with the one before as its teacher."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from distill._types import PathLike, Train
from distill.files import save_weights
from distill.losses import SoftTargets
from distill.losses._settings import Schedule, Setting
from distill.training._arguments import as_losses, as_pair
from distill.training._distiller import Distiller
from distill.training._weights import with_defaults


def chain(
    makers: Sequence[Callable[[], keras.Model]],
    train: Train,
    *,
    losses: Any = None,
    distillation_loss_weights: Any = None,
    student_loss_weight: float | Schedule | None = None,
    distillation_weight: float | Schedule | None = None,
    from_logits: Any = None,
    teacher: keras.Model | None = None,
    folder: PathLike | None = None,
) -> list[keras.Model]:
    """Trains networks in turn, each with the one before as its teacher.

    Generations of one architecture are born-again networks [1]. Networks that get smaller are a chain of teacher
    assistants [2].

    Args:
        makers: functions that return a new, built model, each called when its turn comes. If the networks are to
            become an `ensemble`, give them unique names, as Keras does by default.
        train: function `train(model, callbacks)` that compiles and fits a model in place; `callbacks` is a
            list for `fit`, empty here. The model is a `Distiller` of the network and its teacher. For a
            network that has no teacher, as the first one if you pass no `teacher`, it is the network itself.
        losses: distillation losses, as for `Distiller`; `SoftTargets(temperature=1.0)` by default. They start
            anew for each network. You can also pass a function that returns new objects for each network.
        distillation_loss_weights: weights of the losses, as for `Distiller`.
        student_loss_weight: weight of the networks' own loss, as for `Distiller`.
        distillation_weight: weight of the distillation side, as for `Distiller`.
        from_logits: whether the models return logits, as for `Distiller`.
        teacher: teacher of the first network.
        folder: folder for the weights of each trained network, "0.weights.h5" and so on, each written in one
            piece. If a network's file exists, the network is made and loaded, not trained. When a network is
            trained, the files of later ones are removed, since those had another teacher. Use another folder
            for another `teacher` or `train`. `None` keeps no files.

    To get the same networks whether or not the chain was stopped in between, set the random seeds in the
    makers: each is called just before its network is trained or loaded.

    Returns:
        The trained networks, in order.

    Raises:
        ValueError: there is no maker; a maker does not return a built model, or returns the same one again; a
            file in `folder` does not fit its network; or `Distiller` refuses an argument.

    Example:
        ```python
        import keras

        from distill import training


        def make_student():
            return keras.models.clone_model(student)


        def train(model, callbacks):
            model.compile("adam", loss="sparse_categorical_crossentropy")
            model.fit(x, y, callbacks=callbacks)


        generations = training.chain([make_student] * 3, train, teacher=teacher)
        ```

    References:
        [1] Furlanello et al. 2018, arXiv:1805.04770; their loss is `SoftTargets(temperature=1.0)`.
        [2] Mirzadeh et al. 2019, arXiv:1902.03393.
    """
    makers = list(makers)
    if not makers:
        raise ValueError("A chain needs at least one network. Received: makers=[].")
    weights: dict[str, Any] = {
        "distillation_loss_weights": distillation_loss_weights,
        "student_loss_weight": student_loss_weight,
        "distillation_weight": distillation_weight,
        "from_logits": from_logits,
    }
    if not _makes_losses(losses):  # before any network is trained
        _require(_losses_of(losses), **weights)
    files = None if folder is None else Path(folder)
    if files is not None:
        files.mkdir(parents=True, exist_ok=True)
    networks: list[keras.Model] = []
    for stage, make in enumerate(makers):
        student = make()
        if not isinstance(student, keras.Model) or not student.built:
            raise ValueError(
                f"A maker must return a new, built keras.Model. Received: {student!r} from makers[{stage}]. "
                "Give its first layer a keras.Input."
            )
        if any(student is other for other in (teacher, *networks)):
            raise ValueError(
                f"Each network of a chain must be a new model. Received: {student.name!r} from makers[{stage}] again. "
                "Create the model inside the function."
            )
        path = None if files is None else files / f"{stage}.weights.h5"
        if path is not None and path.exists():
            _load(student, path)
        else:
            model = student
            if teacher is not None:
                model = Distiller(teacher, student, _losses_of(losses), **weights)
            train(model, [])
            if path is not None:
                for file in path.parent.glob("*.weights.h5"):  # a longer chain may have left some
                    number = file.name.partition(".")[0]
                    if number.isdecimal() and int(number) > stage:
                        file.unlink()
                save_weights(student, path)
        networks.append(student)
        teacher = student
    return networks


def _require(
    losses: Any,
    *,
    distillation_loss_weights: Any,
    student_loss_weight: float | Schedule | None,
    distillation_weight: float | Schedule | None,
    from_logits: Any,
) -> None:
    """Raises ValueError for losses and weights that no `Distiller` takes, whatever its models."""
    pairs = as_losses(losses)
    weights = with_defaults(pairs, distillation_loss_weights, student_loss_weight, distillation_weight)
    Setting("student_loss_weight", weights.student, low=0.0, high=1.0)
    if weights.distillation is not None:
        Setting("distillation_weight", weights.distillation, low=0.0)
    for weight in weights.losses:
        Setting("distillation_loss_weights", weight, low=0.0)
    outputs = [output for output, _ in pairs]
    for output in outputs:
        as_pair(from_logits, output, outputs)


def _losses_of(losses: Any) -> Any:
    """Returns the losses for one network."""
    if losses is None:
        return SoftTargets(temperature=1.0)
    return losses() if _makes_losses(losses) else losses


def _makes_losses(losses: Any) -> bool:
    # Losses can be called too.
    return callable(losses) and not isinstance(losses, (type, keras.distillation.DistillationLoss))


def _load(student: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            # If a file has nothing for a layer, Keras only warns and keeps the initial weights.
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            student.load_weights(path)
    except (ValueError, OSError, UserWarning) as error:
        raise ValueError(
            f"The file of a network must fit the network that its maker returns. Received: {path}, which "
            f"{student.name!r} cannot load ({error}). Use another folder, or remove the file: that network and all "
            "after it are then trained again."
        ) from error
