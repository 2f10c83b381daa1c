"""Scoring editors: a benchmark's items -> an editor's videos -> a judge's or exact scores -> tables. Files in between."""
