"""What a model costs: parameters, multiply-adds, memory, bytes on disk and time.

    print(cost.profile(model))
    print(cost.profiles({"teacher": teacher, "student": student}, files=True, latency=[cost.LiteRT(threads=2)]))

Each number is of one example and of the model as it stands, so that a student and its teacher can be
compared on the same terms.
"""

from distill.cost._calls import macs
from distill.cost._exported import ExportComparison, ExportRow, compare_exports
from distill.cost._layers import LayerCost
from distill.cost._memory import Activations
from distill.cost._profiling import Profile, Profiles, profile, profiles
from distill.cost._storage import Sizes, file_bytes, parameters, sizes
from distill.cost._timing import Latency, LiteRT, TFFunction, in_turns, latencies, latency

__all__ = [
    "Activations",
    "ExportComparison",
    "ExportRow",
    "Latency",
    "LayerCost",
    "LiteRT",
    "Profile",
    "Profiles",
    "Sizes",
    "TFFunction",
    "compare_exports",
    "file_bytes",
    "in_turns",
    "latencies",
    "latency",
    "macs",
    "parameters",
    "profile",
    "profiles",
    "sizes",
]
