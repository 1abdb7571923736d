"""Groups: channels that the same weights make, some of which can be removed."""

import dataclasses

import numpy as np

from distill.pruning.structured._structure import Structure


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that the same weights make.

    Attributes:
        layers: paths of the layers that make the channels, in the order of the graph.
        axis: axis of the first layer's weight; it distinguishes the heads of an attention layer from their width.
        width: number of channels that the first layer makes.
        atoms: units that can be removed, in the order of the channels.
        fixed: number of units that have to stay.
        locked: why these units have to stay; "" if there are none.

    Example:
        >>> from distill import pruning
        >>> hidden, head = keras.layers.Dense(16, name="hidden"), keras.layers.Dense(3, name="head")
        >>> net = keras.Sequential([keras.Input((8,)), hidden, head])
        >>> for group in pruning.explain(net).groups:
        ...     print(group.name, group.width, group.atoms.size, repr(group.locked))
        hidden 16 16 ''
        head 3 0 'it is an output of the model'
    """

    layers: tuple[str, ...]
    axis: int
    width: int
    atoms: np.ndarray
    fixed: int
    locked: str

    @property
    def name(self) -> str:
        """Path of the first layer."""
        return self.layers[0]

    @property
    def multiple(self) -> int:
        """Number of channels of the first layer that one unit stands for."""
        return self.width // (self.atoms.size + self.fixed)


def find_groups(structure: Structure) -> list[Group]:
    """All groups of a model, in the order of the graph. A group with a single unit cannot lose it."""
    atoms = structure.atoms
    rng = np.random.default_rng(0)
    makers = [slot for slot in structure.slots if slot.role == "output"]
    members = [np.unique(atoms.of[slot.labels]) for slot in makers]
    marks = np.zeros(atoms.count, np.uint64)  # equal for atoms that the same weights make
    for member in members:
        marks[member] += rng.integers(1, 2**63, dtype=np.uint64)
    found: dict[int, Group] = {}
    for slot, member in zip(makers, members, strict=True):
        for mark in dict.fromkeys(marks[member].tolist()):
            own = member[marks[member] == mark]
            if mark in found:
                if slot.path not in found[mark].layers:
                    layers = (*found[mark].layers, slot.path)
                    found[mark] = dataclasses.replace(found[mark], layers=layers)
                continue
            free = own[~atoms.locked[own]]
            reasons = [atoms.reasons[int(atom)] for atom in own[atoms.locked[own]][:1]]
            width = int(np.isin(atoms.of[slot.labels], own).sum()) // slot.repeats
            # In the order of the channels, which decides between equal scores.
            order = atoms.of[slot.labels][np.isin(atoms.of[slot.labels], free)]
            free = order[np.sort(np.unique(order, return_index=True)[1])]
            free = free if own.size > 1 else free[:0]
            fixed = own.size - free.size
            if own.size == 1 and not reasons:
                reasons = ["all its channels go together" if width > 1 else "it makes a single channel"]
            found[mark] = Group((slot.path,), slot.axis, width, free, fixed, "".join(reasons))
    return list(found.values())
