"""The pictures and the report: not yet."""
from pathlib import Path
from raydet3d.launch.sweep.results import Results
def write_report(results: Results) -> None:
    """x"""
