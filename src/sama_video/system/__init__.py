"""What every other room stands on: errors, files written aside, journals, helpers, precision, platforms."""

# Modules that other rooms take.
__all__ = ["errors", "files", "journal", "lazy", "platforms", "precision", "workers"]
