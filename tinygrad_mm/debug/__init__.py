"""When the numbers go wrong: `detect_anomaly` names the operation that did it, `why` explains a gradient.

Floor 5. Both only read what a graph has recorded, and speak of it in words.
"""

from tinygrad_mm.debug.anomaly import AnomalyError, detect_anomaly
from tinygrad_mm.debug.diagnosis import Diagnosis, why

__all__ = ["AnomalyError", "Diagnosis", "detect_anomaly", "why"]
