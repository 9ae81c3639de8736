"""The doctor looks at a machine and says what would fail there, and how to mend it."""

from vnp.doctor.examine import examine
from vnp.doctor.finding import Finding, healthy

__all__ = ["Finding", "examine", "healthy"]
