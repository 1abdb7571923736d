"""Writes model files for phones and servers, and runs each file in the runtime that it is made for.

```python
import numpy as np
from distill import exports

exports.export(student, "student.tflite", precision="int8", examples=x[:300])
exports.export(student, "student.onnx")  # needs the `onnx` extra
exports.export(student, "student")  # a TensorFlow SavedModel

file = exports.Exported("student.tflite")
print(file.bytes, np.mean(file.predict(x).argmax(-1) == y))
```

`distill.cost.compare_exports` compares several files with the model: accuracy, agreement, bytes and latency.
"""

from distill.exports._export import export
from distill.exports._inputs import inputs_by_name
from distill.exports._litert import Precision
from distill.exports._runtimes import Exported

__all__ = ["Exported", "Precision", "export", "inputs_by_name"]
