"""Mount remote Singularity/Apptainer images that look complete at once and are read on demand."""

__version__ = "0.1.0"
