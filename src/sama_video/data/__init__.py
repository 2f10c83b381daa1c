"""From files and the engine to batches: manifests, pretext tasks, anchor frames, buckets, caches."""
