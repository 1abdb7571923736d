"""Students that learn while they are rounded, so that their int8 files answer as they do.

student = quantization.quantize_aware(student, x[:500])
distiller = distill.Distiller(teacher, student, distill.SoftTargets(temperature=4.0))
distiller.compile(keras.optimizers.Adam(1e-4), loss="sparse_categorical_crossentropy")
distiller.fit(x, y)
distill.export(student, "student.tflite", precision="int8")
"""

from distill.quantization._aware import is_quantized, quantize_aware, strip

__all__ = ["is_quantized", "quantize_aware", "strip"]
