"""What every other room stands on: errors, files written aside, journals, helpers, precision, platforms."""
