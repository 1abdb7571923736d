"""A teacher's answers on disk: recorded once, then used as the teacher.

Without a cache, every epoch, seed and student runs the teacher again. You record a cache once, and use it
wherever you would use the teacher. The teacher that you record can be anything that answers a numpy batch: a
Keras model on any backend, a LiteRT or ONNX file or a SavedModel (`distill.exports.Exported`), a PyTorch
function, or a function that asks a server.

```python
from distill import cache

targets = cache.TopK(2, temperatures=(1.0, 4.0))
answers = cache.record(teacher, x, "cache", targets=targets, verbose=0)  # goes on if it was ended
distiller = distill.Distiller(answers, student, distill.SoftTargets(4.0))
distiller.compile("adam", loss="sparse_categorical_crossentropy")
distiller.fit(answers.with_ids(x), y, epochs=2)
print(cache.inspect("cache"))
```

    Dense           all numbers of an output or a layer, in float32, bfloat16 or float16
    TopK            the largest logits, and the sum of all others at each temperature
    Sampled         classes drawn from the softened probabilities
    record_on_ray   records on the machines of a Ray cluster
    views           random views of a data set that are the same at every pass
"""

from distill.cache._answers import Answers, open
from distill.cache._inspection import Contents, inspect
from distill.cache._manifest import MANIFEST
from distill.cache._ray import record_on_ray
from distill.cache._recording import record
from distill.cache._sparse_targets import Sampled, TopK
from distill.cache._targets import Dense
from distill.cache._views import views

__all__ = [
    "MANIFEST",
    "Answers",
    "Contents",
    "Dense",
    "Sampled",
    "TopK",
    "inspect",
    "open",
    "record",
    "record_on_ray",
    "views",
]
