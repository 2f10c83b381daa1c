"""What every other room stands on: errors, files written aside, journals, helpers, precision, platforms."""

# Modules, imported when they are asked for.
# pyright: reportUnsupportedDunderAll=false
__all__ = ["data_files", "errors", "files", "journal", "lazy", "platforms", "precision", "strict", "workers"]
