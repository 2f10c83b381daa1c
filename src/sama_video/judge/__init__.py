"""One judge for curation and benchmarks: what it is shown and asked, what it answered; no answer is bought twice."""
