"""Edits as jobs: kept on disk, run by a worker of their own, asked for over HTTP and from the page."""
