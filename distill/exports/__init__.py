"""Files for phones and servers, and the runtimes that run them.

exports.export(student, "student.tflite", precision="int8", examples=x[:500])
outputs = exports.Exported("student.tflite")(x[:10])
"""

from distill.exports._export import Precision, export
from distill.exports._runtimes import Exported, Runtime

__all__ = ["Exported", "Precision", "Runtime", "export"]
