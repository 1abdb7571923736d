"""Measures what a model costs: parameters, multiply-adds, memory, bytes in files and latency.

```python
from distill import cost

print(cost.profile(student))  # every layer: parameters, zeros, multiply-adds, bytes of activations
print(cost.profiles({"teacher": teacher, "student": student}, files=True, latency=[cost.LiteRT(threads=2)]))

share = cost.macs(student) / cost.macs(teacher)
faster = cost.latencies({"teacher": teacher, "student": student}, cost.TFFunction(batch_size=8))
```

All numbers are for one example and for the model as it stands, so that you can compare a student and its teacher on the
same terms. `compare_exports` measures files that `distill.exports` wrote: accuracy, agreement with the model, bytes and
latency, each in its own runtime. It is here because it measures files; `distill.exports` writes and runs them.
"""

from distill.cost._calls import Call, Calls
from distill.cost._exported import ExportComparison, ExportRow, compare_exports
from distill.cost._layers import LayerCost
from distill.cost._lengths import Lengths
from distill.cost._macs import calls_of, macs
from distill.cost._memory import Activations
from distill.cost._products import Products
from distill.cost._profile import Profile, Profiles
from distill.cost._profiling import profile, profiles
from distill.cost._runtimes import LiteRT, Runtime, TFFunction
from distill.cost._storage import Sizes, file_bytes, parameters, sizes
from distill.cost._timing import Latency, in_turns, latencies, latency

__all__ = [
    "Activations",
    "Call",
    "Calls",
    "ExportComparison",
    "ExportRow",
    "Latency",
    "LayerCost",
    "Lengths",
    "LiteRT",
    "Products",
    "Profile",
    "Profiles",
    "Runtime",
    "Sizes",
    "TFFunction",
    "calls_of",
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
