"""Trains students with int8 rounding, so that their int8 files give the same answers.

```python
import keras
import distill
from distill import quantization

aware = quantization.quantize_aware(student, x[:300])
distiller = distill.Distiller(teacher, aware, distill.SoftTargets(temperature=4.0))
distiller.compile(keras.optimizers.Adam(1e-4), loss="sparse_categorical_crossentropy")
distiller.fit(x, y)
distill.export(aware, "student.tflite", precision="int8")
```

Without training, a model from `quantize_aware` shows what post-training quantization would give. `strip` turns it
back into a model without rounding.
"""

from distill.quantization._aware import is_quantized, quantize_aware, strip
from distill.quantization._layers import (
    FakeQuantize,
    QuantizedConv1D,
    QuantizedConv2D,
    QuantizedConv2DTranspose,
    QuantizedDense,
    QuantizedDepthwiseConv2D,
)

__all__ = [
    "FakeQuantize",
    "QuantizedConv1D",
    "QuantizedConv2D",
    "QuantizedConv2DTranspose",
    "QuantizedDense",
    "QuantizedDepthwiseConv2D",
    "is_quantized",
    "quantize_aware",
    "strip",
]
