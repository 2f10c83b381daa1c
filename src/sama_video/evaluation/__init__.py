"""Scoring editors: a benchmark -> an editor's videos -> scores by a judge or exact ones -> tables; files in between."""
