"""Groups: channels that the same weights make, of which some can go and some stay."""

import dataclasses

import numpy as np

from distill.pruning.structured._structure import Structure


@dataclasses.dataclass(frozen=True)
class Group:
    """Channels that the same weights make.

    Attributes:
        layers: paths of the layers that make them, in the order of the graph.
        axis: of the first one's weight, to tell apart the heads and the widths of one attention.
        width: how many channels the first one makes.
        atoms: what can be removed on its own, in order; none where all are locked.
        fixed: how many atoms more stay.
        locked: why they do; "" if there are none.
    """

    layers: tuple[str, ...]
    axis: int
    width: int
    atoms: np.ndarray
    fixed: int
    locked: str

    @property
    def name(self) -> str:
        """The first layer's path."""
        return self.layers[0]

    @property
    def multiple(self) -> int:
        """How many channels of the first layer go with one atom."""
        return self.width // (self.atoms.size + self.fixed)


def find_groups(structure: Structure) -> list[Group]:
    """All groups of a model, in the order of the graph; of one channel only there is nothing to cut."""
    atoms = structure.atoms
    rng = np.random.default_rng(0)
    makers = [slot for slot in structure.slots if slot.role == "output"]
    members = [np.unique(atoms.of[slot.labels]) for slot in makers]
    marks = np.zeros(atoms.count, np.uint64)  # the same for atoms of the same makers
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
            # In the order of the channels, which scores that are equal are decided by.
            order = atoms.of[slot.labels][np.isin(atoms.of[slot.labels], free)]
            free = order[np.sort(np.unique(order, return_index=True)[1])]
            free = free if own.size > 1 else free[:0]
            fixed = own.size - free.size
            found[mark] = Group((slot.path,), slot.axis, width, free, fixed, "".join(reasons))
    return list(found.values())
